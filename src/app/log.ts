import pino from "pino";
import type { Logger } from "../lib/log.ts";

/** JSON lines on stderr. Written at once, so that a crash loses none. */
export function createLogger(level: string): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: { paths: ["*.env", "*.apiKey", "*.apiKeys", "env", "apiKey", "apiKeys"], censor: "[hidden]" },
    },
    pino.destination({ dest: 2, sync: true }),
  );
}
