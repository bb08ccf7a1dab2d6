import type { Readable, Transform } from "node:stream";
import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib";
import { type Redaction, type Refusal, refuse } from "../guard.ts";

export interface CleanAnswer {
  /** Names and values in turn. */
  fields: string[];
  /** What its body goes through, in this order. */
  through: Transform[];
}

const decoders: Record<string, (() => Transform) | undefined> = {
  gzip: createGunzip,
  "x-gzip": createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
};

/**
 * An answer without what the redaction seeks. The server was asked for plain bodies; one that is compressed nevertheless is
 * passed on without that, and one in a code that nobody here reads not at all.
 */
export function cleanAnswer(
  redaction: Redaction | undefined,
  { fields, hasBody, isPartial }: { fields: readonly string[]; hasBody: boolean; isPartial: boolean },
): CleanAnswer | Refusal {
  if (!redaction) return { fields: [...fields], through: [] };
  const valuesOf = (name: string) =>
    fields.filter((_text, i) => i % 2 === 1 && (fields[i - 1] ?? "").toLowerCase() === name);
  const codes = valuesOf("content-encoding")
    .flatMap((value) => value.toLowerCase().split(","))
    .map((code) => code.trim())
    .filter((code) => code !== "" && code !== "identity");
  const clean = fields.map((text, i) => (i % 2 === 0 ? text : redaction.text(text)));
  if (!hasBody) return { fields: clean, through: [] };
  if (codes.length === 0) return { fields: clean, through: [redaction.stream()] };
  const [decode] = codes.length === 1 ? [decoders[codes[0] as string]] : [];
  if (!decode || isPartial) {
    return refuse(502, `the answer is coded as ${codes.join()}, in which a secret could not be found`);
  }
  const plain = clean.filter((_text, i) => !/^content-(encoding|length)$/i.test(clean[i - (i % 2)] ?? ""));
  return { fields: plain, through: [decode(), redaction.stream()] };
}

/** The end of the line: what breaks on the way breaks it. */
export function lead(body: Readable, through: readonly Transform[]): Readable {
  return through.reduce<Readable>((from, to) => {
    from.once("error", (error) => to.destroy(error));
    to.once("close", () => {
      if (!from.readableEnded) from.destroy();
    });
    return from.pipe(to);
  }, body);
}
