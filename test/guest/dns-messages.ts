/** DNS messages (RFC 1035) for tests, by hand. */

export const types = { A: 1, PTR: 12, TXT: 16, AAAA: 28, OPT: 41, HTTPS: 65, ANY: 255 } as const;
export const codes = { ok: 0, format: 1, noName: 3, notImplemented: 4, refused: 5 } as const;

export function nameBytes(name: string): Buffer {
  const labels = name === "" ? [] : name.split(".");
  return Buffer.concat([
    ...labels.map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label, "latin1")])),
    Buffer.from([0]),
  ]);
}

export interface QueryOptions {
  type?: number;
  class?: number;
  id?: number;
  /** The version of an OPT record that is added; absent: there is none. */
  edns?: number;
  flags?: number;
  counts?: readonly [questions: number, answers: number, authorities: number, additional: number];
}

export function query(name: string | Buffer, options: QueryOptions = {}): Buffer {
  const { type = types.A, class: kind = 1, id = 0x1234, edns, flags = 0x0100 } = options;
  const counts = options.counts ?? [1, 0, 0, edns === undefined ? 0 : 1];
  const question = typeof name === "string" ? nameBytes(name) : name;
  const opt = edns === undefined ? [] : [0, 0, types.OPT, 16, 0, 0, edns, 0, 0, 0, 0];
  return Buffer.concat([words(id, flags, ...counts), question, words(type, kind), Buffer.from(opt)]);
}

export function words(...values: number[]): Buffer {
  return Buffer.from(values.flatMap((value) => [value >> 8, value & 0xff]));
}

export interface Answer {
  id: number;
  code: number;
  flags: number;
  question?: string;
  /** Addresses and names. */
  answers: string[];
  ttl?: number;
  /** Of an OPT record. */
  udpSize?: number;
}

/** Reads what our name server sends, and throws at anything that it would not. */
export function parseAnswer(bytes: Buffer): Answer {
  let at = 12;
  const u16 = () => {
    at += 2;
    return bytes.readUInt16BE(at - 2);
  };
  const name = (): string => {
    const labels: string[] = [];
    for (;;) {
      const length = bytes.readUInt8(at++);
      if (length === 0) return labels.join(".");
      if (length >= 0xc0) {
        const back = at + 1;
        at = ((length & 0x3f) << 8) | bytes.readUInt8(at);
        const rest = name();
        at = back;
        return [...labels, rest].join(".");
      }
      labels.push(bytes.toString("latin1", at, at + length));
      at += length;
    }
  };
  const [id, flags, questions, answers, authorities, additional] = [0, 2, 4, 6, 8, 10].map((offset) =>
    bytes.readUInt16BE(offset),
  ) as [number, number, number, number, number, number];
  if (questions > 1 || authorities > 0 || additional > 1) throw new Error("a strange answer");
  const result: Answer = { id, flags: flags & ~15, code: flags & 15, answers: [] };
  if (questions === 1) {
    result.question = name();
    at += 4;
  }
  for (let i = 0; i < answers + additional; i++) {
    name();
    const [type, size] = [u16(), u16()];
    result.ttl ??= bytes.readUInt32BE(at);
    const high = bytes.readUInt8(at);
    at += 4;
    const length = u16();
    const end = at + length;
    if (type === types.OPT) {
      result.udpSize = size;
      result.code |= high << 4;
    } else if (type === types.A) result.answers.push([...bytes.subarray(at, end)].join("."));
    else if (type === types.AAAA) result.answers.push(bytes.toString("hex", at, end));
    else if (type === types.PTR) result.answers.push(name());
    else throw new Error(`an answer of type ${type}`);
    at = end;
  }
  if (at !== bytes.length) throw new Error("bytes behind the answer");
  return result;
}
