import type { Duplex } from "node:stream";
import {
  encodeString,
  FAILURE,
  Fields,
  fingerprint,
  type MessageReader,
  messageTypes,
  type Patience,
  readMessages,
  send,
} from "./messages.ts";

/** A program that holds its connection without a word for so long has forgotten it. */
const client: Patience = { idleMs: 600_000, messageMs: 30_000 };
/** The agent's answer: it reads keys from memory. */
const AGENT_ANSWER_MS = 10_000;
/** A signature may wait for a person: a confirmation (`ssh-add -c`) or a touch of a security key. */
const AGENT_SIGNS_MS = 120_000;
const AGENT_MESSAGE_MS = 10_000;
const SEND_MS = 10_000;
/** More than any agent has; each is at least some dozen bytes, so that a message can't hold very many. */
const MOST_IDENTITIES = 2048;

const SESSION_BIND = "session-bind@openssh.com";

export interface FilterOptions {
  /** A new connection to the agent. */
  connect: () => Promise<Duplex>;
  /** Fingerprints; absent: all. */
  keys?: readonly string[];
  onSignature: (signature: { key: string; allowed: boolean; reason: string }) => void;
}

/**
 * Serves one program inside: it may see identities and have something signed. Whatever else it asks for, such as keys to be added or
 * removed, is refused without the agent hearing of it. What the agent hears is encoded anew from what was understood.
 */
export async function serveAgent(program: Duplex, options: FilterOptions): Promise<void> {
  let agent: (MessageReader & { stream: Duplex }) | undefined;
  /** FAILURE when the agent can't be reached, is silent or breaks off. It is asked on a new connection then. */
  const ask = async (request: Buffer, answerMs: number): Promise<Buffer> => {
    try {
      if (!agent) {
        const stream = await options.connect();
        agent = { stream, ...readMessages(stream) };
      }
      await send(agent.stream, request, SEND_MS);
      return (await agent.receive({ idleMs: answerMs, messageMs: AGENT_MESSAGE_MS })) ?? lost();
    } catch {
      return lost();
    }
  };
  const lost = () => {
    agent?.stream.destroy();
    agent = undefined;
    return FAILURE;
  };
  const isAllowed = (blob: Buffer) => options.keys?.includes(fingerprint(blob)) ?? true;

  const identities = async () => {
    const answer = await ask(Buffer.from([messageTypes.requestIdentities]), AGENT_ANSWER_MS);
    return answer[0] === messageTypes.identitiesAnswer ? (onlyAllowed(answer, isAllowed) ?? lost()) : FAILURE;
  };

  const sign = async (request: Buffer) => {
    const fields = new Fields(request, 1);
    const [blob, data, flags] = [fields.string(), fields.string(), fields.u32()];
    if (!fields.isWhole()) return FAILURE;
    const key = fingerprint(blob);
    const tell = (allowed: boolean, reason: string) => options.onSignature({ key, allowed, reason });
    if (!isAllowed(blob)) {
      tell(false, "the key is not one that the sandbox may use");
      return FAILURE;
    }
    const answer = await ask(signRequest(blob, data, flags), AGENT_SIGNS_MS);
    const signature = new Fields(answer, 1);
    signature.string();
    const isSignature = answer[0] === messageTypes.signResponse && signature.isWhole();
    tell(isSignature, isSignature ? "signed" : "the agent has refused it, or can't be reached");
    return isSignature ? answer : FAILURE;
  };

  /** Tells the agent which host a connection is for: it can only narrow what keys with destinations may sign. */
  const bind = async (request: Buffer) => {
    const fields = new Fields(request, 1);
    if (fields.string().toString("latin1") !== SESSION_BIND) return FAILURE;
    for (let i = 0; i < 3; i++) fields.string();
    if (fields.u8() > 1 || !fields.isWhole()) return FAILURE;
    const answer = await ask(request, AGENT_ANSWER_MS);
    return answer.length === 1 && answer[0] === messageTypes.success ? answer : FAILURE;
  };

  const answer = async (request: Buffer): Promise<Buffer> => {
    switch (request[0]) {
      case messageTypes.requestIdentities:
        return request.length === 1 ? await identities() : FAILURE;
      case messageTypes.signRequest:
        return await sign(request);
      case messageTypes.extension:
        return await bind(request);
      default:
        return FAILURE;
    }
  };

  // Nobody waits for the agent any more, which may be waiting for a person.
  program.once("close", () => agent?.stream.destroy());
  const requests = readMessages(program);
  try {
    // One at a time, so that what is kept of a program is one message and its answer.
    for (;;) {
      const request = await requests.receive(client);
      if (request === undefined) break;
      await send(program, await answer(request), SEND_MS);
    }
    program.end();
  } finally {
    agent?.stream.destroy();
  }
}

function signRequest(blob: Buffer, data: Buffer, flags: number): Buffer {
  const end = Buffer.alloc(4);
  end.writeUInt32BE(flags, 0);
  return Buffer.concat([
    Buffer.from([messageTypes.signRequest]),
    encodeString(blob),
    encodeString(data),
    end,
  ]);
}

/** Undefined for what is no list of identities. */
function onlyAllowed(answer: Buffer, isAllowed: (blob: Buffer) => boolean): Buffer | undefined {
  const fields = new Fields(answer, 1);
  const count = fields.u32();
  if (count > MOST_IDENTITIES) return undefined;
  const kept: Buffer[] = [];
  let left = 0;
  for (let i = 0; i < count && !fields.bad; i++) {
    const [blob, comment] = [fields.string(), fields.string()];
    if (fields.bad || !isAllowed(blob)) continue;
    kept.push(encodeString(blob), encodeString(comment));
    left++;
  }
  if (!fields.isWhole()) return undefined;
  const head = Buffer.alloc(5);
  head[0] = messageTypes.identitiesAnswer;
  head.writeUInt32BE(left, 1);
  return Buffer.concat([head, ...kept]);
}
