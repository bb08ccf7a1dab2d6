import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createGuestClient } from "../../src/guest/client.ts";
import type { GuestClient } from "../../src/guest/types.ts";
import { nativeProgram } from "../../src/lib/native.ts";
import { type Carrier, createMuxConnector, type MuxOptions } from "../../src/runtimes/containers/mux.ts";
import type { TestGuest } from "./harness.ts";

const program = process.env.WARREN_GUEST ?? nativeProgram("warren-guest");

export interface TestMux extends Disposable {
  client: GuestClient;
  connect: ReturnType<typeof createMuxConnector>["connect"];
  /** Each mux that was started, in order. */
  processes: ChildProcess[];
}

/** `warren-guest --mux`, as an engine's exec would run it. */
export function startMuxProcess(path: string, wrapper: string[] = []): ChildProcess {
  const argv = [...wrapper, program, "--mux", path];
  return spawn(argv[0] as string, argv.slice(1), { stdio: ["pipe", "pipe", "pipe"], env: {} });
}

export function carrierOfProcess(child: ChildProcess): Carrier {
  const { stdin, stdout } = child;
  if (!stdin || !stdout) throw new Error("no pipes");
  return {
    sink: stdin,
    listen(onBytes, onEnd) {
      stdin.on("error", onEnd);
      stdout.on("data", onBytes).on("end", () => onEnd());
    },
    destroy() {
      stdin.destroy();
      stdout.destroy();
    },
  };
}

/** A client of the guest whose connections all go through a mux. */
export function startMux(guest: TestGuest, options: MuxOptions & { wrapper?: string[] } = {}): TestMux {
  const processes: ChildProcess[] = [];
  const connector = createMuxConnector(async () => {
    const child = startMuxProcess(join(guest.dir, ".sock"), options.wrapper);
    processes.push(child);
    return carrierOfProcess(child);
  }, options);
  return {
    client: createGuestClient(connector.connect),
    connect: connector.connect,
    processes,
    [Symbol.dispose]: () => connector.close(),
  };
}
