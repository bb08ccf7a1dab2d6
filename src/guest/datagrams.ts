import type { WarrenError } from "../contracts/errors.ts";
import { type Connect, type Connection, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { encodeFrame } from "./encoder.ts";
import { errnoError, parseError } from "./errors.ts";
import { HEADER_BYTES, inputs, replies, requests } from "./frames.ts";

const FLOW_BYTES = 4;
/** Of a datagram, by IPv4; the guest takes no more. */
const MOST_BYTES = 65_507;
/** What may wait for the guest: beyond it, datagrams are lost, as they are where a network is too slow. */
const MOST_WAITING_BYTES = 1 << 20;

/** Hears what a server inside sends. */
export interface DatagramSink {
  /** `flow` is the guest's word: it may be none that was begun. */
  datagram(flow: number, bytes: Buffer): void;
  /** Once, unless `close` came first. */
  closed(error: WarrenError): void;
}

/** A UDP port inside. A flow is one of its clients, under a number that the host chooses; 256 at one time. */
export interface DatagramPort {
  send(flow: number, bytes: Uint8Array): void;
  endFlow(flow: number): void;
  close(): void;
}

export function datagrams(
  connect: Connect,
  port: number,
  sink: DatagramSink,
  limits: { answerTimeoutMs: number },
): Promise<DatagramPort> {
  return new Promise((resolve, reject) => {
    let connection: Connection | undefined;
    let isOpen = false;
    const onFrame = (type: number, payload: Buffer) => {
      if (isOpen && type === replies.datagram && payload.length >= FLOW_BYTES) {
        sink.datagram(payload.readUInt32LE(0), payload.subarray(FLOW_BYTES));
      } else if (!isOpen && type === replies.ok && payload.length === 0) {
        isOpen = true;
        resolve(openPort(() => connection as Connection));
      } else if (!isOpen && type === replies.error) {
        connection?.close();
        reject(errnoError(parseError(payload).errno, `UDP port ${port} of the sandbox`));
      } else {
        throw brokenProtocol(`frame ${type} among datagrams`);
      }
    };
    const closed = (error: WarrenError) => (isOpen ? sink.closed(error) : reject(error));
    const request = encodeFrame(requests.datagrams).u16(port).finish();
    openConnection(connect, request, { frame: onFrame, closed }, limits).then((open) => {
      connection = open;
    }, reject);
  });
}

function openPort(connection: () => Connection): DatagramPort {
  let waiting = 0;
  const post = (type: number, flow: number, bytes: Uint8Array) => {
    const head = Buffer.allocUnsafe(HEADER_BYTES + FLOW_BYTES);
    head.writeUInt32LE(FLOW_BYTES + bytes.length, 0);
    head[4] = type;
    head.writeUInt32LE(flow, HEADER_BYTES);
    const cost = head.length + bytes.length;
    waiting += cost;
    const done = () => {
      waiting -= cost;
    };
    connection().send(head, bytes).then(done, done);
  };
  return {
    send(flow, bytes) {
      if (waiting < MOST_WAITING_BYTES && bytes.length <= MOST_BYTES) post(inputs.datagram, flow, bytes);
    },
    endFlow: (flow) => post(inputs.endFlow, flow, new Uint8Array(0)),
    close: () => connection().close(),
  };
}
