import io.temporal.internal.testservice.GRPCServerHelper;
import io.temporal.internal.testservice.TestServicesStarter;
import io.grpc.Server;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import java.net.InetAddress;
import java.net.InetSocketAddress;

/**
 * Temporal's test server, on loopback only, on a free port that it prints. It ends when its stdin is closed, so it
 * never outlives the test that started it.
 *
 * The main class of the jar (io.temporal.testserver.TestServer) listens on all interfaces.
 */
class TemporalServer {
  public static void main(String[] args) throws Exception {
    TestServicesStarter services = new TestServicesStarter(true, 0); // no time is skipped until a test unlocks it
    NettyServerBuilder builder =
        NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0));
    GRPCServerHelper.registerServicesAndHealthChecks(services.getServices(), builder);
    Server server = builder.build().start();
    System.out.println(server.getPort());
    while (System.in.read() >= 0) {}
    System.exit(0);
  }
}
