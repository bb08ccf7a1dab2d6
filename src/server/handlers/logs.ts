import { isUtf8 } from "node:buffer";
import type { LogChunk, LogEvent, LogOptions, LogStream } from "../../contracts/logs.ts";
import { LogsQuery } from "../query.ts";
import { sendEvents } from "../send-events.ts";
import { type Handler, present, sent } from "./handler.ts";

export const logHandlers = {
  async readLogs({ api, id, query, signal, incoming, outgoing, log }) {
    const { timeout, ...asked } = query(LogsQuery);
    // Asked for first: that an API knows the sandbox is told by the status.
    await api.get(id);
    const stream = api.logs(id, present<LogOptions>({ ...asked, timeoutS: timeout, signal }));
    await sendEvents(outgoing, incoming.method === "HEAD" ? nothing() : events(stream), log);
    return sent;
  },
} satisfies Record<string, Handler>;

async function* nothing(): AsyncGenerator<LogEvent> {}

async function* events(stream: LogStream): AsyncGenerator<LogEvent> {
  for await (const chunk of stream) yield event(chunk);
  yield { end: await stream.end };
}

function event({ stream, at, data }: LogChunk): LogEvent {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return isUtf8(bytes)
    ? { stream, at, data: bytes.toString("utf8") }
    : { stream, at, data_base64: bytes.toString("base64") };
}
