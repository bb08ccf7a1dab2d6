/** Where a request goes. */
export interface Origin {
  host: string;
  port: number;
  /** Over TLS that ends here. */
  isSecure: boolean;
}

export interface Refusal {
  status: number;
  reason: string;
}

/** A request as it goes out. */
export interface Admitted {
  /** Names and values of its header in turn. */
  fields: string[];
  /** What is taken out of the answer; absent: nothing is. */
  redaction?: Redaction;
}

/** What no answer may bring in. */
export interface Redaction {
  /** The same text, with as many stars in place of what is sought. */
  text(text: string): string;
  /** For the bytes of a body, of the same length, in whatever pieces they come. */
  stream(): import("node:stream").Transform;
}

/** Looks at each request whose header the engine sees. */
export interface RequestGuard {
  /** @param fields names and values in turn, without those for the next hop and without Host */
  admit(to: Origin, url: string, fields: readonly string[]): Admitted | Refusal;
}

export function refuse(status: number, reason: string): Refusal {
  return { status, reason };
}
