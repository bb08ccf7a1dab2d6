import { isatty } from "node:tty";
import { say } from "./output.ts";

/** Tells the person at the keyboard why nothing moves. Whoever is not there needs no words of ours among the command's. */
export function connectionNotice(): ((state: "lost" | "restored") => void) | undefined {
  if (!isatty(2)) return undefined;
  return (state) => {
    // A terminal in raw mode needs both: a way down and a way back to the first column.
    if (state === "lost") void say("\r\nwarren: the connection was lost; reconnecting…\r");
  };
}
