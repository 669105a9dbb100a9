// Which of the queries on standard input (a JSON list) Grafana's own parser does not accept.
// The arguments are the directory whose node_modules has the parser, and traceql or logql.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { parser } = createRequire(`${process.argv[2]}/`)(`@grafana/lezer-${process.argv[3]}`);

function accepts(query) {
  let error = false;
  parser.parse(query).iterate({ enter: (node) => void (error ||= node.type.isError) });
  return !error;
}

const queries = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(queries.filter((query) => !accepts(query))));
