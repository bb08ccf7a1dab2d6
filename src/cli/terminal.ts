import type { ReadStream } from "node:tty";

export interface TerminalSize {
  cols: number;
  rows: number;
}

/** What a terminal is taken for that does not tell its size. */
const DEFAULT_SIZE: TerminalSize = { cols: 80, rows: 24 };

/**
 * Hands every key to us unprocessed, Ctrl-C included, until disposed. The terminal is also set back when the process
 * ends by `process.exit` or an uncaught error; for deadly signals whoever handles them disposes.
 */
export async function rawMode(input: ReadStream): Promise<Disposable> {
  // Loaded only here: commands without a terminal have no time to lose.
  const { spawnSync } = await import("node:child_process");
  const restore = () => {
    input.setRawMode(false);
  };
  input.setRawMode(true);
  // Node leaves output processing on, and full-screen programs that move down by a bare line feed would be drawn
  // askew. setRawMode(false) brings back all settings, this one included. Without stty it is only that flaw.
  spawnSync("stty", ["-opost"], { stdio: ["inherit", "ignore", "ignore"] });
  process.once("exit", restore);
  return {
    [Symbol.dispose]() {
      process.removeListener("exit", restore);
      restore();
    },
  };
}

/** Watches the size of our terminal, when stdout or stderr is one. `onResize` is called after each change. */
export function watchSize(onResize: (size: TerminalSize) => void): { current(): TerminalSize } & Disposable {
  const terminal = [process.stdout, process.stderr].find((stream) => stream.isTTY);
  const current = () =>
    terminal !== undefined && terminal.columns > 0 && terminal.rows > 0
      ? { cols: terminal.columns, rows: terminal.rows }
      : DEFAULT_SIZE;
  const changed = () => onResize(current());
  terminal?.on("resize", changed);
  return {
    current,
    [Symbol.dispose]() {
      terminal?.off("resize", changed);
    },
  };
}
