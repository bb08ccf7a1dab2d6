import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "../../../src/lib/run.ts";
import { sh } from "../common/support/boxes.ts";
import { type DockerRig, openDockerRig } from "./support/open.ts";

/** Nobody's on this machine. */
const UID = 61_357;
const SUBORDINATE = 1_700_000_000;

const file = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The runtime, used by an ordinary user of the host: what it reports. */
async function asOrdinaryUser(host: string): Promise<Record<string, unknown>> {
  const home = mkdtempSync(join(tmpdir(), "wdockeru-"));
  chownSync(home, UID, UID);
  try {
    const loader = file("../../engine/support/typescript.mjs");
    const { stdout, stderr } = await run(
      "setpriv",
      [
        ...["--reuid", String(UID), "--regid", String(UID), "--clear-groups"],
        ...[process.execPath, "--import", loader, file("support/ordinary-user.mjs"), home, host],
      ],
      { timeoutMs: 60_000 },
    );
    const text = stdout.toString();
    expect(text, stderr.toString()).not.toBe("");
    return JSON.parse(text);
  } finally {
    rmSync(home, { recursive: true });
  }
}

/** As `usermod -aG docker` does it, for this one user. */
function allow(rig: DockerRig): void {
  chownSync(rig.daemon.socket, 0, UID);
  chmodSync(rig.daemon.socket, 0o660);
}

describe("an ordinary user of the host", () => {
  let rig: DockerRig;
  beforeAll(async () => {
    rig = await openDockerRig();
  });
  afterAll(() => rig.close());

  it("is told what group docker means, where the socket is closed to them", async () => {
    const { error } = await asOrdinaryUser(rig.daemon.url);
    expect(error).toMatchObject({
      code: "runtime_unavailable",
      message: expect.stringContaining("permission denied"),
      hint: expect.stringMatching(/usermod -aG docker .*can become root on this machine/),
    });
  });

  it("who may use the daemon has sandboxes", async () => {
    allow(rig);
    expect(await asOrdinaryUser(rig.daemon.url)).toEqual({
      uid: UID,
      said: `0\n${" ".repeat(9)}0${" ".repeat(10)}0 4294967295\n`,
      limits: [128 << 20, 0],
      left: [],
    });
  });
});

describe("a daemon that remaps ids", () => {
  let rig: DockerRig;
  beforeAll(async () => {
    const line = `remap:${SUBORDINATE}:65536\n`;
    rig = await openDockerRig({
      config: { "userns-remap": `${UID}:${UID}` },
      files: {
        "/etc/passwd": `${readFileSync("/etc/passwd", "utf8")}remap:x:${UID}:${UID}::/nonexistent:/bin/false\n`,
        "/etc/group": `${readFileSync("/etc/group", "utf8")}remap:x:${UID}:\n`,
        "/etc/subuid": line,
        "/etc/subgid": line,
      },
    });
  });
  afterAll(() => rig.close());

  it("makes root inside nobody outside, and is told so", async () => {
    const { runtime, fixture } = rig;
    expect(runtime.capabilities.userNamespace).toBe(true);
    const { findings } = await runtime.probe();
    expect(findings.map(({ message }) => message).join()).not.toContain("root on the host, held by");
    const box = await fixture.box({
      tmpfs: [{ path: "/project", sizeBytes: 1 << 20, readonly: false, exec: true, mode: 0o755 }],
    });
    expect(await sh(box, "id -u; touch /opt/x /project/x; chown dev /opt/x; stat -c %u /opt/x")).toBe(
      "0\n1234\n",
    );
    const status = readFileSync(`/proc/${box.pid}/status`, "utf8");
    expect(status).toMatch(new RegExp(`^Uid:\\t${SUBORDINATE}\\t`, "m"));
    await runtime.stop(box.id, { timeoutMs: 2000 });
    await runtime.start(box.id);
    expect(await sh(box, "stat -c %u /opt/x")).toBe("1234\n");
    await runtime.remove(box.id);
    expect(await rig.leftovers(box.id)).toEqual([]);
  });

  it("serves an ordinary user as well", async () => {
    allow(rig);
    expect(await asOrdinaryUser(rig.daemon.url)).toMatchObject({
      uid: UID,
      said: expect.stringMatching(new RegExp(`^0\\n +0 +${SUBORDINATE} +65536\\n$`)),
      left: [],
    });
  });
});

describe("a daemon that does not", () => {
  it("is warned of, with how to mend it", async () => {
    const rig = await openDockerRig();
    try {
      expect(rig.runtime.capabilities.userNamespace).toBe(false);
      const { findings } = await rig.runtime.probe();
      const finding = findings.find(({ message }) => message.includes("root on the host"));
      expect(finding).toMatchObject({ level: "warning", fix: expect.stringContaining("userns-remap") });
    } finally {
      await rig.close();
    }
  });
});
