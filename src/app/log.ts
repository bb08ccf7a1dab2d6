import pino from "pino";
import type { Logger } from "../lib/log.ts";

/** Bytes of lines that wait for room on the disk of the log; beyond it they are dropped. */
const MAX_WAITING_BYTES = 1024 * 1024;

/** JSON lines on stderr. Written at once, so that a crash loses none. What can't be written costs lines, and not the process. */
export function createLogger(level: string): Logger {
  const destination = pino.destination({ dest: 2, sync: true, maxLength: MAX_WAITING_BYTES });
  destination.on("error", () => {}); // it tries again with the next line
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: { paths: ["*.env", "*.apiKey", "*.apiKeys", "env", "apiKey", "apiKeys"], censor: "[hidden]" },
    },
    destination,
  );
}
