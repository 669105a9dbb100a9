// Which of the TraceQL queries on standard input (a JSON list) Grafana's own parser does not accept.
// The argument is the directory whose node_modules has @grafana/lezer-traceql.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { parser } = createRequire(`${process.argv[2]}/`)('@grafana/lezer-traceql');

function accepts(query) {
  let error = false;
  parser.parse(query).iterate({ enter: (node) => void (error ||= node.type.isError) });
  return !error;
}

const queries = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(queries.filter((query) => !accepts(query))));
