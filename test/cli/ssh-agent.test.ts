import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { UsageError } from "../../src/cli/report.ts";
import { sshAgentRequest } from "../../src/cli/ssh-agent.ts";
import { publicKey, startSshAgent } from "../../src/testing/ssh-agent.ts";
import { openWorkspace } from "./workspace.ts";

describe("--ssh-agent", () => {
  afterEach(() => vi.unstubAllEnvs());

  it("is the agent of SSH_AUTH_SOCK, or another", () => {
    vi.stubEnv("SSH_AUTH_SOCK", "/tmp/mine");
    expect(sshAgentRequest({}, true)).toEqual({});
    expect(sshAgentRequest({ sshAgent: true }, true)).toEqual({ ssh_agent: { socket: "/tmp/mine" } });
    expect(sshAgentRequest({ sshAgent: "/tmp/other", sshAgentKey: ["SHA256:x"] }, true)).toEqual({
      ssh_agent: { socket: "/tmp/other", keys: ["SHA256:x"] },
    });
  });

  it("is refused where it can't be, or swallows the command", () => {
    vi.stubEnv("SSH_AUTH_SOCK", "");
    for (const options of [{ sshAgent: true as const }, { sshAgent: "git" }, { sshAgentKey: ["SHA256:x"] }]) {
      expect(() => sshAgentRequest(options, true)).toThrow(UsageError);
    }
    expect(() => sshAgentRequest({ sshAgent: "/tmp/other" }, false)).toThrow(/TCP/);
  });
});

it("has OpenSSH inside list keys and sign with them, and not remove them", async () => {
  await using agent = await startSshAgent();
  await using space = openWorkspace();
  const inside = `ssh-add -l
    ssh-add -D 2>&1
    ssh-add -l
    echo "$1" > key.pub; echo words > text
    ssh-keygen -Y sign -q -n test -f key.pub text && ssh-keygen -Y check-novalidate -n test -s text.sig < text`;
  const run = ["run", "-w", "/tmp", "--read-only", "--ssh-agent", "--", "sh", "-c", inside, "sh"];
  const said = await space.ok([...run, await publicKey(agent, 0)], { env: { SSH_AUTH_SOCK: agent.socket } });
  const [listed, refused, again, good] = said.split("\n");
  expect(listed).toContain(agent.fingerprints[0]);
  expect(refused).toMatch(/failed|refused/i);
  expect(again).toBe(listed);
  expect(good).toContain("Good");
  const audit = readFileSync(join(space.stateDir, "audit.jsonl"), "utf8");
  expect(audit).toContain(`"type":"signature"`);
  expect(audit).toContain(`"key":"${agent.fingerprints[0]}","allowed":true`);
});
