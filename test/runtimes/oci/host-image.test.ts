import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createHostImage, type HostImage } from "../../../src/runtimes/oci/images/host.ts";
import { ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import { isNoOtherTests, OF_TESTS } from "../../hostile/support/of-tests.ts";
import { type Box, shortId } from "../common/support/boxes.ts";
import { openTestRuntime, type TestRuntime } from "./support/open.ts";
import { busyboxRoot } from "./support/rootfs.ts";

/** Regular files that can be opened, below / but for the kernel's own file systems; each path ends with a NUL. */
const listOpenable = `perl -MFcntl -e '
  my @dirs = ("");
  while (defined(my $d = pop @dirs)) {
    next if $d =~ m{^/(proc|sys|dev)$};
    opendir(my $h, "$d/") or next;
    for my $n (readdir $h) {
      next if $n eq "." || $n eq "..";
      my $p = "$d/$n";
      my @s = lstat $p or next;
      if (($s[2] & 0170000) == 0040000) { push @dirs, $p }
      elsif (($s[2] & 0170000) == 0100000) { print "F$p\\0" if sysopen(my $f, $p, O_RDONLY | O_NONBLOCK) }
      elsif (($s[2] & 0170000) != 0120000) { print "S$p\\0" }
    }
  }'`;

/** As nobody: of the paths on stdin those that can't be opened on the host. */
const listClosed = `
  use Fcntl; local $/ = "\\0";
  while (my $p = <STDIN>) { chomp $p; print "$p\\0" unless sysopen(my $f, $p, O_RDONLY | O_NONBLOCK) }`;

async function closedToNobody(paths: readonly string[]): Promise<string[]> {
  const child = spawn(
    "setpriv",
    ["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-e", listClosed],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  child.stdin.end(paths.map((path) => `${path}\0`).join(""));
  const chunks: Buffer[] = [];
  for await (const chunk of child.stdout) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8").split("\0").filter(Boolean);
}

describe.each(ociPrograms)("the host image, with %s", (program) => {
  let made: TestRuntime;
  let box: Box;
  const id = shortId();
  const secret = `/usr/local/share/${OF_TESTS}${id}-secret`;
  const socketPath = `/usr/local/share/${OF_TESTS}${id}.sock`;
  const server = createServer((socket) => socket.end("host"));
  beforeAll(async () => {
    writeFileSync(secret, "of host root only", { mode: 0o600 });
    server.listen(socketPath);
    await once(server, "listening");
    chmodSync(socketPath, 0o777);
    made = await openTestRuntime(program);
    box = await made.box();
  });
  afterAll(async () => {
    await made.close();
    server.close();
    rmSync(secret);
    rmSync(socketPath, { force: true });
  });

  it("shows no file that the host's nobody can't read", { timeout: 240_000 }, async () => {
    const listed = (await box.sh(listOpenable)).split("\0").filter(Boolean);
    const files = listed.filter((entry) => entry.startsWith("F")).map((entry) => entry.slice(1));
    expect(files.length).toBeGreaterThan(1000);
    expect(files).toContain("/usr/bin/perl");
    // Neither sockets nor FIFOs nor devices.
    expect(listed.filter((entry) => entry.startsWith("S") && isNoOtherTests(entry))).toEqual([]);
    // Made by us: the guest, /etc, and the empty file that masks the socket.
    const ours = ["/.warren/guest", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname", socketPath];
    const closed = (await closedToNobody(files)).filter((path) => !ours.includes(path));
    // What has gone since is closed to everybody.
    expect(closed.filter((path) => existsSync(path))).toEqual([]);
    expect(await closedToNobody([secret])).toEqual([secret]);
    const named = files.filter(
      (path) => /shadow|ssh_host|machine-id|sudoers/.test(path) && path.startsWith("/etc/"),
    );
    expect(named).toEqual([]);
  });

  it("keeps files of host root closed, which an id-mapped layer would open", async () => {
    expect(await box.sh(`cat ${secret} 2>&1 || echo closed`)).toMatch(/closed\n$/);
    // Without the guard: the same kind of file in an image directory, whose ids are mapped.
    const root = busyboxRoot();
    try {
      writeFileSync(join(root.path, "secret"), "open", { mode: 0o600 });
      const mapped = await made.box({ image: await made.runtime.images.ensure(root.path) });
      expect(await mapped.sh("busybox cat /secret")).toBe("open");
      await made.runtime.remove(mapped.id);
    } finally {
      root[Symbol.dispose]();
    }
  });

  it("masks a socket that the host listens on", async () => {
    expect(await box.sh(`stat -c %F ${socketPath}`)).toBe("regular empty file\n");
    const connect = `use IO::Socket::UNIX; IO::Socket::UNIX->new(Peer => "${socketPath}") or print "refused"`;
    expect(await box.sh(`perl -e '${connect}'`)).toBe("refused");
  });

  it("has accounts, homes and places to write of its own", async () => {
    expect(await box.sh("id -un; id -un sandbox; getent passwd | cut -d: -f1 | sort | tr '\\n' ' '")).toBe(
      "root\nsandbox\nnobody root sandbox ",
    );
    expect(await box.sh("cd && pwd && echo x > note && stat -c %U note", "sandbox")).toBe(
      "/home/sandbox\nsandbox\n",
    );
    expect(await box.sh("echo x > /tmp/a && echo x > /var/tmp/b && stat -c %a /tmp", "sandbox")).toBe(
      "1777\n",
    );
    expect(await box.sh("ls -A /root /home /var/log /srv /mnt; cat /etc/resolv.conf")).toBe(
      "/home:\nsandbox\n\n/mnt:\n\n/root:\n\n/srv:\n\n/var/log:\n",
    );
    expect(await box.sh("echo x > /opt/own && cat /opt/own")).toBe("x\n");
    expect(await box.sh("getent hosts localhost | head -1; hostname; cat /etc/hostname")).toContain(box.id);
    expect(await box.sh("(echo x > /usr/bin/x) 2>/dev/null || echo read-only")).toBe("read-only\n");
  });

  it("runs the host's programs", async () => {
    expect(
      await box.sh("perl -e 'print 6*7'; bash -c 'echo $((6*7))'; su sandbox -s /bin/sh -c 'id -un'"),
    ).toBe("4242\nsandbox\n");
  });
});

describe("the skeleton of the host image", () => {
  it("is made again when the host's /etc has changed, and kept while it is used", async () => {
    await using host = await fakeHost();
    const first = await host.open().skeleton();
    expect(await host.open().skeleton()).toBe(first);
    expect(readFileSync(join(first, "etc/profile"), "utf8")).toBe("one");
    expect(readdirSync(join(first, "etc")).sort()).toEqual([
      "group",
      "link",
      "passwd",
      "profile",
      "resolv.conf",
      "sub",
    ]);
    expect(readdirSync(join(first, "etc/sub"))).toEqual(["open"]);

    host.write("etc/profile", "changed");
    host.used.add(first);
    const second = await host.open().skeleton();
    expect(second).not.toBe(first);
    expect(readFileSync(join(second, "etc/profile"), "utf8")).toBe("changed");
    expect(readFileSync(join(first, "etc/profile"), "utf8")).toBe("one");

    host.write("etc/profile", "once more");
    host.used.clear();
    const third = await host.open().skeleton();
    expect(readdirSync(host.images)).toEqual([third.split("/").at(-1)]);
  });

  it("mounts programs, and masks homes and our state among them", async () => {
    await using host = await fakeHost();
    const binds = await host.open().binds();
    const shown = binds.map((bind) => `${bind.target} ${bind.source.replace(host.root, "")}`);
    expect(shown).toEqual([
      "usr /usr",
      "opt/tool /opt/tool",
      `usr/state ${host.empty}`,
      `opt/tool/alice ${host.empty}`,
    ]);
  });

  it("shows nothing of an /opt that is closed to others", async () => {
    await using host = await fakeHost();
    chmodSync(join(host.root, "opt"), 0o700);
    const targets = (await host.open().binds()).map((bind) => bind.target);
    expect(targets.filter((target) => target.startsWith("opt"))).toEqual([]);
  });
});

interface FakeHost extends AsyncDisposable {
  root: string;
  images: string;
  empty: string;
  used: Set<string>;
  open(): HostImage;
  write(path: string, text: string, mode?: number): void;
}

/** A small host: merged /usr with our state in it, an /opt with a home, an /etc with open and closed files. */
async function fakeHost(): Promise<FakeHost> {
  const root = mkdtempSync(join(tmpdir(), "woci-host-"));
  chmodSync(root, 0o755);
  const images = join(root, "images");
  const used = new Set<string>();
  const write = (path: string, text: string, mode = 0o644) => {
    writeFileSync(join(root, path), text);
    chmodSync(join(root, path), mode);
  };
  for (const dir of ["usr/bin", "usr/state", "opt/tool/alice", "etc/sub", "etc/private", "etc/sudoers.d"]) {
    mkdirSync(join(root, dir), { recursive: true });
  }
  symlinkSync("usr/bin", join(root, "bin"));
  chmodSync(join(root, "etc/private"), 0o700);
  write("etc/private/key", "closed");
  write("etc/profile", "one");
  write("etc/shadow", "closed", 0o640);
  write("etc/sub/open", "open");
  write("etc/sub/closed", "closed", 0o600);
  write("etc/sudoers.d/x", "left out");
  write("etc/machine-id", "left out");
  write(
    "etc/passwd",
    "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/opt/tool/alice:/bin/sh\ndaemon:x:2:2::/usr/bin:/bin/sh\n",
  );
  symlinkSync("profile", join(root, "etc/link"));
  return {
    root,
    images,
    empty: "/nonexistent/empty",
    used,
    write,
    open: () =>
      createHostImage({
        dir: images,
        stateDir: join(root, "usr/state"),
        emptyDir: "/nonexistent/empty",
        emptyFile: "/nonexistent/empty-file",
        used: async () => used,
        discard: async (path) => rmSync(path, { recursive: true, force: true }),
        own: async () => {},
        hostRoot: root,
      }),
    async [Symbol.asyncDispose]() {
      rmSync(root, { recursive: true });
    },
  };
}
