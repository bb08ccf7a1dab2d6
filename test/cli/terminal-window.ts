import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { until } from "./workspace.ts";

/** A real terminal, drawn by tmux on a socket of its own. */
export interface TerminalWindow extends Disposable {
  /** Keys by tmux's names (`C-c`, `Enter`) or text. */
  keys(...keys: string[]): void;
  resize(cols: number, rows: number): void;
  screen(): string;
  /** Pids of what the shell in it has started and not yet ended. */
  programs(): number[];
  /** Waits until the screen matches. */
  shows(pattern: RegExp): Promise<string>;
}

/** Resolves when its shell waits for a line. */
export async function openTerminal(env: NodeJS.ProcessEnv, cols = 80, rows = 24): Promise<TerminalWindow> {
  const socket = `warren-test-${process.pid}-${randomBytes(4).toString("hex")}`;
  const { TMUX, TMUX_PANE, ...own } = env;
  const tmux = (...args: string[]) =>
    execFileSync("tmux", ["-L", socket, "-f", "/dev/null", ...args], { env: own, encoding: "utf8" });
  tmux("new-session", "-d", "-x", String(cols), "-y", String(rows), "env PS1='host> ' sh");
  const window: TerminalWindow = {
    keys: (...keys) => void tmux("send-keys", ...keys),
    resize: (newCols, newRows) => void tmux("resize-window", "-x", String(newCols), "-y", String(newRows)),
    screen: () => tmux("capture-pane", "-p"),
    programs() {
      const shell = tmux("display-message", "-p", "#{pane_pid}").trim();
      return readFileSync(`/proc/${shell}/task/${shell}/children`, "utf8").trim().split(" ").map(Number);
    },
    async shows(pattern) {
      let screen = "";
      await until(() => {
        screen = tmux("capture-pane", "-p");
        return pattern.test(screen);
      }, `${pattern} on the screen`).catch((error: Error) => {
        throw new Error(`${error.message}; it shows:\n${screen}`);
      });
      return screen;
    },
    [Symbol.dispose]: () => void tmux("kill-server"),
  };
  await window.shows(/^host>$/m);
  return window;
}
