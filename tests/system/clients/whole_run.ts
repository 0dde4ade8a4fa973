// Drives one run from its start to its result with the TypeScript client, and prints a report of it as one JSON line.
// Usage: node whole_run.ts '{"server": {command, args, cwd, env}, "protocol": "legacy" | "2026-07-28", "spawn_run": {...}}'

import { createHash } from "node:crypto";
import process from "node:process";
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

type Json = Record<string, any>;

const PAGE_BYTES = 262_144;
const OVER = ["completed", "failed", "cancelled"];

const { server, protocol, spawn_run }: Json = JSON.parse(process.argv[2] ?? "{}");
const client = new Client(
  { name: "whole-run", version: "1" },
  { versionNegotiation: { mode: protocol === "legacy" ? "legacy" : { pin: protocol } } },
);

async function call(name: string, args: Json): Promise<Json> {
  const result = await client.callTool({ name, arguments: args });
  const [block] = result.content;
  const text = block?.type === "text" ? block.text : "";
  if (result.isError) throw new Error(`${name}: ${text}`);
  const document = result.structuredContent as Json;
  if (JSON.stringify(document) !== JSON.stringify(JSON.parse(text))) throw new Error(`${name}: the two channels differ`);
  return document;
}

/** Follows the run to its end and answers what it asks. */
async function follow(run_id: string): Promise<{ events: Json[]; answers: Json[] }> {
  const events: Json[] = [];
  const answers: Json[] = [];
  for (let after_seq = 0; ; ) {
    const page = await call("poll_events", { run_id, after_seq });
    events.push(...page.events);
    after_seq = page.next_after_seq;
    for (const request of page.has_more ? [] : (page.pending ?? [])) {
      answers.push(await call("continue_run", { run_id, request_id: request.request_id, decision: request.options[0].id }));
    }
    if (OVER.includes(page.status) && !page.has_more) return { events, answers };
  }
}

/** Reads the text of an event page by page. */
async function read(run_id: string, seq: number): Promise<Json> {
  const whole = createHash("sha256");
  let bytes = 0;
  for (let pages = 1, offset = 0; ; pages += 1) {
    const page = await call("get_event_artifact", { run_id, seq, field_path: "/text", offset, limit: PAGE_BYTES });
    whole.update(page.content);
    bytes += page.returned_bytes;
    if (!page.has_more) return { bytes, pages, sha256: whole.digest("hex") };
    offset = page.next_offset;
  }
}

async function drive(): Promise<Json> {
  const { tools } = await client.listTools();
  const { run_id } = await call("spawn_run", spawn_run);
  const { events, answers } = await follow(run_id);
  const artifact = await read(run_id, events.find((event) => event.type === "artifact_added")?.seq);
  const waited = await call("wait_runs", { run_ids: [run_id] });
  const run = await call("get_run", { run_id });
  const spoken = client.getNegotiatedProtocolVersion();
  return { protocol: spoken, tools: tools.map((tool) => tool.name), events, answers, artifact, waited, run };
}

await client.connect(new StdioClientTransport(server));
try {
  console.log(JSON.stringify(await drive()));
} finally {
  await client.close();
}
