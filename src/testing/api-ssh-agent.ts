import { join } from "node:path";
import { expect } from "vitest";
import type { SshSignature } from "../contracts/ssh-agent.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { publicKey, startSshAgent } from "./ssh-agent.ts";

/**
 * Speaks to the SSH agent, since images need not have OpenSSH: says each message, in hexadecimal, and prints the type of the answer, and
 * the number of keys.
 */
const say = `exec perl -MIO::Socket::UNIX -e '
  my $s = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK} // "/run/warren/ssh-agent.sock") or do { print "none"; exit };
  for (@ARGV) {
    my $m = pack "H*", $_; syswrite $s, pack("N/a*", $m);
    read $s, my $n, 4 or do { print "gone"; exit }; read $s, my $answer, unpack "N", $n;
    my ($type, $count) = unpack "CN", $answer; print $type == 12 ? "$count keys " : "$type ";
  }' "$@"`;
const LIST = "0b";
const REMOVE_ALL = "13";
const hexString = (bytes: Uint8Array) =>
  bytes.length.toString(16).padStart(8, "0") + Buffer.from(bytes).toString("hex");

/** The host's SSH agent, for programs inside. */
export function testApiSshAgent({ test, fixture }: ApiContext): void {
  test("lets programs inside sign with an SSH agent in any network, and change nothing of it", async () => {
    await using agent = await startSshAgent(2);
    const [first = "", second = ""] = agent.fingerprints;
    const { api, box, shell } = fixture();
    const wanted = { socket: agent.socket, keys: [second] };
    const created = await box({ ssh_agent: wanted, network_mode: "none", cmd: ["sleep", "1000"] });
    const { id } = created;
    expect(created.ssh_agent).toEqual(wanted);
    const sign = async (key: number) => {
      const [, blob = ""] = (await publicKey(agent, key)).split(" ");
      return `0d${hexString(Buffer.from(blob, "base64"))}${hexString(Buffer.from("words"))}00000000`;
    };
    const messages = [LIST, REMOVE_ALL, LIST, await sign(1), await sign(0)];
    const stop = new AbortController();
    const events = api.events({ sandbox: id, types: ["signature"], signal: stop.signal });
    const told = firstOf(events, 2);
    const asked = async (user?: string) =>
      (await shell(id, say, { args: messages, ...(user ? { user } : {}) })).stdout;
    expect(await asked()).toBe("1 keys 5 1 keys 14 5 ");
    expect(await told).toMatchObject([
      { key: second, allowed: true },
      { key: first, allowed: false, reason: expect.stringContaining("may use") },
    ]);
    stop.abort();
    // Every user inside, and a start anew.
    expect(await asked("65534:65534")).toBe("1 keys 5 1 keys 14 5 ");
    await api.stop(id, { timeoutMs: 0 });
    await api.start(id);
    expect(await asked()).toBe("1 keys 5 1 keys 14 5 ");
    // What others have is none of theirs.
    const { id: other } = await box();
    expect((await shell(other, say, { args: [LIST] })).stdout).toBe("none");
    expect((await agent.run(["ssh-add", "-l"])).split("\n")).toHaveLength(3);
  });

  test("refuses an SSH agent that is none", async () => {
    await using agent = await startSshAgent();
    const { api, box } = fixture();
    for (const ssh_agent of [
      { socket: join(agent.dir, "nowhere") },
      { socket: join(agent.dir, "key0") },
      { socket: "agent.sock" },
      { socket: `/${"x".repeat(107)}` },
      { socket: agent.socket, keys: [] },
      { socket: agent.socket, keys: ["key0"] },
    ]) {
      await expectFailure(box({ ssh_agent }), "invalid_request");
    }
    expect(await api.list()).toEqual([]);
  });
}

async function firstOf(
  events: AsyncIterable<{ signature?: SshSignature | undefined }>,
  count: number,
): Promise<(SshSignature | undefined)[]> {
  const seen: (SshSignature | undefined)[] = [];
  for await (const { signature } of events) if (seen.push(signature) === count) break;
  return seen;
}
