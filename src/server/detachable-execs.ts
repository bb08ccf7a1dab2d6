import { createHash, randomBytes } from "node:crypto";
import { WarrenError } from "../contracts/errors.ts";
import type { ExecSession, ExecStreamResume } from "../contracts/exec.ts";
import type { Logger } from "../lib/log.ts";
import { BufferBudget } from "./buffer-budget.ts";
import { type Attachment, DetachableExec } from "./detachable-exec.ts";

export interface DetachableLimits {
  /** Seconds that a command goes on without a connection when its client names no number. */
  graceS: number;
  /** The same when the client may never have heard that the command has started. */
  unconfirmedGraceS: number;
  /** Commands without a connection, running or with an end that nobody has heard. */
  maxAway: number;
  /** Unacknowledged output of one command, and of all together, in bytes. */
  bufferBytes: number;
  totalBufferBytes: number;
  /** Unacknowledged input of one command, in bytes. */
  windowBytes: number;
  /** Seconds of silence on TCP after which each side asks for the other. */
  heartbeatS: number;
}

const defaults: DetachableLimits = {
  graceS: 30,
  unconfirmedGraceS: 5,
  maxAway: 256,
  bufferBytes: 1024 * 1024,
  totalBufferBytes: 64 * 1024 * 1024,
  windowBytes: 256 * 1024,
  heartbeatS: 5,
};

/** Who started a command where. Another key, or another address, does not find it. */
export interface ExecOwner {
  /** The sandbox as the client's URL names it. */
  id: string;
  identity: string;
}

interface Entry {
  exec: DetachableExec;
  owner: ExecOwner;
}

/** The resumable exec streams of a server. */
export class DetachableExecs {
  readonly #limits: DetachableLimits;
  readonly #log: Logger;
  readonly #budget: BufferBudget;
  /** By the hash of the token, so that the time which a search takes tells nothing about a token. */
  readonly #entries = new Map<string, Entry>();
  /** Those without a connection, the one that lost it first first. */
  readonly #away = new Set<DetachableExec>();

  constructor(limits: Partial<DetachableLimits>, log: Logger) {
    this.#limits = { ...defaults, ...limits };
    this.#log = log;
    this.#budget = new BufferBudget(this.#limits.totalBufferBytes);
  }

  /** Bytes of output that wait for their clients, and how many streams there are. */
  get load(): { bytes: number; streams: number } {
    return { bytes: this.#budget.used, streams: this.#entries.size };
  }

  /** Keeps a command that has just started, and speaks with its client. `kill` must end it. */
  start(
    session: ExecSession,
    kill: (reason: WarrenError) => void,
    owner: ExecOwner,
    connection: Omit<Attachment, "received">,
    grace = this.#limits.graceS,
  ): void {
    const { bufferBytes, windowBytes, heartbeatS, unconfirmedGraceS } = this.#limits;
    const token = randomBytes(32).toString("base64url");
    const key = hash(token);
    const exec = new DetachableExec({
      session,
      kill,
      bufferBytes,
      unconfirmedGraceS,
      resumption: { session: token, grace, heartbeat: heartbeatS, window: windowBytes },
      budget: this.#budget,
      log: this.#log,
      onAway: () => this.#left(exec),
      onEnd: () => {
        this.#entries.delete(key);
        this.#away.delete(exec);
      },
    });
    this.#entries.set(key, { exec, owner });
    exec.attach({ ...connection, received: 0 });
  }

  /** @throws WarrenError `exec_session_not_found`, `invalid_request`. */
  resume(
    { resume, received }: ExecStreamResume,
    owner: ExecOwner,
    connection: Omit<Attachment, "received">,
  ): void {
    const entry = this.#entries.get(hash(resume));
    if (!entry || entry.owner.id !== owner.id || entry.owner.identity !== owner.identity) {
      throw new WarrenError("exec_session_not_found", "no such exec session here", {
        hint: "the client was away for longer than its grace, or the server was restarted: the command was killed",
      });
    }
    entry.exec.attach({ ...connection, received });
    this.#away.delete(entry.exec);
  }

  /** Kills all of them. Whoever is connected is told why. */
  async close(reason: WarrenError): Promise<void> {
    await Promise.all([...this.#entries.values()].map(({ exec }) => exec.end(reason)));
  }

  #left(exec: DetachableExec): void {
    this.#away.add(exec);
    if (this.#away.size <= this.#limits.maxAway) return;
    // The one that has been alone for longest is the least likely to be fetched.
    for (const oldest of this.#away) {
      void oldest.end();
      return;
    }
  }
}

function hash(token: string): string {
  return createHash("sha256").update(token).digest("base64url");
}
