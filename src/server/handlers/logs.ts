import { isUtf8 } from "node:buffer";
import type { EventOptions } from "../../contracts/events.ts";
import type { LogChunk, LogEvent, LogOptions, LogStream } from "../../contracts/logs.ts";
import { EventsQuery, LogsQuery } from "../query.ts";
import { sendEvents } from "../send-events.ts";
import { type Handler, present, sent } from "./handler.ts";

export const logHandlers = {
  async readEvents({ api, query, signal, incoming, outgoing, log }) {
    const { sandbox, type: types } = query(EventsQuery);
    // Asked for first: that there is such a sandbox is told by the status.
    if (sandbox !== undefined) await api.get(sandbox);
    const isHead = incoming.method === "HEAD";
    const stream = isHead ? nothing() : api.events(present<EventOptions>({ sandbox, types, signal }));
    await sendEvents(outgoing, stream, log);
    return sent;
  },
  async readLogs({ api, id, query, signal, incoming, outgoing, log }) {
    const { timeout, ...asked } = query(LogsQuery);
    // Asked for first: that an API knows the sandbox is told by the status.
    await api.get(id);
    const stream = api.logs(id, present<LogOptions>({ ...asked, timeoutS: timeout, signal }));
    await sendEvents(outgoing, incoming.method === "HEAD" ? nothing() : events(stream), log);
    return sent;
  },
} satisfies Record<string, Handler>;

async function* nothing(): AsyncGenerator<never> {}

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
