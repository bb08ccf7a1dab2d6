import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { eventually } from "./wait.ts";

/** OpenSSH's agent with keys of its own, and a directory for more. */
export interface TestAgent extends AsyncDisposable {
  dir: string;
  socket: string;
  /** What `ssh-add -l` prints of each key: its fingerprint. */
  fingerprints: string[];
  /** Runs a program of OpenSSH that speaks to the agent itself, or to what listens at another socket. */
  run(argv: readonly [string, ...string[]], socket?: string): Promise<string>;
  /** Has it end, and begin again at the same path, without keys. */
  restart(): Promise<void>;
}

/** @param count of keys */
export async function startSshAgent(count = 1): Promise<TestAgent> {
  const dir = await mkdtemp(join(tmpdir(), "warren-agent-"));
  const socket = join(dir, "agent.sock");
  const begin = () => spawn("ssh-agent", ["-D", "-a", socket], { stdio: "ignore" });
  let agent = begin();
  const run: TestAgent["run"] = async ([program, ...args], at = socket) => {
    const env = { ...process.env, SSH_AUTH_SOCK: at, SSH_ASKPASS: "false" };
    return (await promisify(execFile)(program, args, { env, cwd: dir, timeout: 20_000 })).stdout;
  };
  const isThere = () =>
    run(["ssh-add", "-l"]).then(
      () => true,
      // 1: it has no keys; 2: there is none.
      ({ code }: { code?: unknown }) => code === 1,
    );
  const end = async () => {
    agent.kill();
    if (agent.exitCode === null && agent.signalCode === null) await once(agent, "exit");
  };
  await eventually("the agent", isThere);
  const fingerprints: string[] = [];
  for (let i = 0; i < count; i++) {
    const file = join(dir, `key${i}`);
    await run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", `test key ${i}`, "-f", file]);
    await run(["ssh-add", "-q", file]);
    fingerprints.push((await run(["ssh-keygen", "-lf", file])).split(" ")[1] ?? "");
  }
  return {
    dir,
    socket,
    fingerprints,
    run,
    async restart() {
      await end();
      await rm(socket, { force: true });
      agent = begin();
      await eventually("the agent", isThere);
    },
    async [Symbol.asyncDispose]() {
      await end();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** The public key of one of its keys, as a file of OpenSSH has it. */
export const publicKey = (agent: TestAgent, index: number) =>
  readFile(join(agent.dir, `key${index}.pub`), "utf8");
