import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** The file that is written to. Older ones have a number: the higher, the older. */
export const AUDIT_FILE = "audit.jsonl";
/** Files beside the one that is written to; the oldest goes when another is begun. */
export const OLD_FILES = 4;
/** `prev` of the very first line. */
export const NO_LINE = "0".repeat(64);

/** Every line names its predecessor by this. */
export function hashOf(line: string | Buffer): string {
  return createHash("sha256").update(line).digest("hex");
}

export function oldFile(dir: string, number: number): string {
  return join(dir, `audit.${number}.jsonl`);
}

export interface AuditReport {
  records: number;
  /** The first line that does not follow from the one before it. */
  problem?: string;
}

/**
 * Reads all that is kept and follows the chain. A line that was changed, taken out or put in shows; that the newest ones were cut
 * off, or all of them written anew, does not.
 */
export async function verifyAudit(dir: string): Promise<AuditReport> {
  const numbered = Array.from({ length: OLD_FILES }, (_, i) => oldFile(dir, OLD_FILES - i));
  let records = 0;
  let before: { hash: string; seq: number } | undefined;
  for (const path of [...numbered, join(dir, AUDIT_FILE)]) {
    const size = await stat(path).then(
      ({ size: bytes }) => bytes,
      () => 0,
    );
    if (size === 0) continue;
    // What is being written meanwhile is not looked at.
    const lines = createInterface({ input: createReadStream(path, { end: size - 1 }), crlfDelay: 0 });
    let number = 0;
    for await (const line of lines) {
      number++;
      const place = `${path}, line ${number}`;
      const link = parseLink(line);
      if (!link) return { records, problem: `${place} is no record` };
      if (before && link.prev !== before.hash) {
        return { records, problem: `${place} does not follow from the line before it` };
      }
      if (before && link.seq !== before.seq + 1) {
        return { records, problem: `${place} is not the one that comes next` };
      }
      before = { hash: hashOf(line), seq: link.seq };
      records++;
    }
  }
  return { records };
}

export function parseLink(line: string): { seq: number; prev: string } | undefined {
  try {
    const { seq, prev } = JSON.parse(line) as { seq?: unknown; prev?: unknown };
    return Number.isSafeInteger(seq) && typeof prev === "string" ? { seq: seq as number, prev } : undefined;
  } catch {
    return undefined;
  }
}
