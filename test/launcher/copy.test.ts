import { execFileSync, spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../src/lib/log.ts";
import { createLauncher, type Launcher } from "../../src/runtimes/oci/launcher-client.ts";
import { expectFailure } from "../../src/testing/failures.ts";

let launcher: Launcher;
let dir: string;
beforeAll(() => {
  launcher = createLauncher({ log: silentLogger });
});
afterAll(() => launcher.close());
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "wcopy-"));
});
afterEach(() => launcher.rmtree(tmpdir(), dir.slice(tmpdir().length + 1)));

const python = (script: string, ...args: string[]) =>
  execFileSync("python3", ["-c", script, ...args], { encoding: "utf8", maxBuffer: 1 << 26 });

/** Everything that a layer of overlayfs may hold, and some of what it may not. */
const makeTree = `
import os, socket, sys
os.umask(0)
root = sys.argv[1]
os.mkdir(root, 0o1751)
os.chdir(root)
def file(name, data=b"x", mode=0o640, owner=(7, 8)):
    with open(name, "wb") as f: f.write(data)
    os.chown(name, *owner); os.chmod(name, mode)
file("plain", os.urandom(300001)); file("empty", b""); file("setuid", mode=0o6755); file("capable", owner=(0, 0))
os.setxattr("capable", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
file("nested-capable")
os.setxattr("nested-capable", "security.capability", bytes.fromhex("010000030020000000000000000000000000000005000000"))
os.setxattr("plain", "user.note", b"\\x00\\xff"); os.setxattr("plain", "trusted.overlay.origin", b"abc"); os.setxattr("plain", "user.none", b"")
os.setxattr("plain", "system.posix_acl_access", bytes.fromhex("02000000" "01000600ffffffff" "0200040009000000" "04000400ffffffff" "10000400ffffffff" "20000000ffffffff"))
with open("sparse", "wb") as f:
    f.seek(1 << 20); f.write(b"middle" * 1000); f.truncate(1 << 33)
for name in ("hard-a", "hard-b"): os.link("plain", name)
os.mkdir("dir", 0o000); os.chown("dir", 5, 6)
os.setxattr("dir", "trusted.overlay.opaque", b"y"); os.setxattr("dir", "trusted.overlay.redirect", b"/other")
os.link("plain", "dir/hard-c")
os.mknod("whiteout", 0o020000, os.makedev(0, 0)); os.link("whiteout", "dir/whiteout-too")
os.symlink("/etc/passwd", "link"); os.symlink("x" * 4095, "long-link"); os.lchown("link", 3, 4)
os.setxattr("link", "trusted.x", b"1", follow_symlinks=False)
os.mkfifo("fifo", 0o604); os.link("fifo", "fifo-too")
odd = b"odd \\xff\\n" + b"n" * 240
file(odd); os.mkdir(b"-rf")
os.utime("link", ns=(10**18 + 1, 10**18 + 2), follow_symlinks=False)
os.utime("plain", ns=(5, 123456789)); os.utime("dir", ns=(10**17, 10**17 + 5)); os.utime("fifo", ns=(1, 2))
# What no layer brings into a sandbox.
os.mknod("device", 0o020666, os.makedev(1, 3)); os.mknod("disk", 0o060666, os.makedev(7, 0))
socket.socket(socket.AF_UNIX).bind("socket")
for name in ("proc", "dev"): os.mkdir(name); file(name + "/gone")
os.mkdir("dir/proc")
os.utime(".", ns=(3, 4))
`;

/** A line for each file: all that the kernel tells of it, and its bytes. */
const describeTree = `
import hashlib, os, stat, sys
root, skip = sys.argv[1].encode(), [n.encode() for n in sys.argv[2:]]
inodes = {}
def look(path, name):
    s = os.lstat(path)
    x = {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in sorted(os.listxattr(path, follow_symlinks=False))}
    what = ""
    if stat.S_ISREG(s.st_mode):
        h = hashlib.sha256()
        with open(path, "rb") as f:
            if s.st_size < 1 << 30: h.update(f.read())
            else: h.update(f.read(2 << 20)); what = "sparse" if s.st_blocks * 512 < 1 << 20 else "dense"
        what += h.hexdigest()
    if stat.S_ISLNK(s.st_mode): what = os.readlink(path)
    same = inodes.setdefault(s.st_ino, name) if not stat.S_ISDIR(s.st_mode) else ""
    size = 0 if stat.S_ISDIR(s.st_mode) else s.st_size
    print(name, oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns, size, s.st_rdev, x, what, same, 0 if stat.S_ISDIR(s.st_mode) else s.st_nlink)
    if stat.S_ISDIR(s.st_mode):
        for n in sorted(os.listdir(path)):
            if name == b"" and n in skip: continue
            look(os.path.join(path, n), os.path.join(name, n))
look(root, b"")
`;

describe("COPY", () => {
  it("keeps all that a layer is, and passes over what leads out of a sandbox", async () => {
    const [source, target] = [join(dir, "source"), join(dir, "target")];
    python(makeTree, source);
    const skip = ["proc", "dev"];
    const bytes = await launcher.copy(source, target, { skip });
    const left = ["device", "disk", "socket"];
    expect(python(describeTree, target)).toBe(python(describeTree, source, ...skip, ...left));
    expect(bytes).toBeGreaterThan(300_000);
    expect(bytes).toBeLessThan(2 << 20);
    expect(readdirSync(dir).sort()).toEqual(["source", "target"]);
    await expectFailure(launcher.copy(source, target, {}), "runtime_failed");
  });

  it("adds to every id where that is asked for, and takes it away again", async () => {
    const [source, shifted, back] = ["source", "shifted", "back"].map((name) => join(dir, name)) as [
      string,
      string,
      string,
    ];
    python(makeTree, source);
    await launcher.copy(source, shifted, { shift: 1000 });
    const told = python(describeTree, shifted);
    expect(told).toMatch(/^b'setuid' 0o106755 1007 1008 /m);
    expect(told).toContain("02000400f1030000"); // the user 9 of an ACL
    expect(told).toContain("0100000300200000000000000000000000000000ed030000"); // the root 5 of a capability
    expect(told).toContain("0100000300200000000000000000000000000000e8030000"); // and the root that needed no saying
    await launcher.copy(shifted, back, { shift: -1000 });
    expect(python(describeTree, back)).toBe(python(describeTree, source, "device", "disk", "socket"));
    await expectFailure(launcher.copy(source, join(dir, "below"), { shift: -1 }), "runtime_failed");
  });

  it("copies what is deeper than a path may be long, with few descriptors", async () => {
    const script =
      'chdir shift; mkdir "deep"; chdir "deep"; for (1..600) { mkdir "directory"; chdir "directory" or die } open F, ">last"';
    execFileSync("/usr/bin/perl", ["-e", script, dir]);
    const before = python(countDeep, join(dir, "deep"));
    expect(before).toBe("600 ['last']\n");
    await launcher.copy(join(dir, "deep"), join(dir, "copy"), {});
    expect(python(countDeep, join(dir, "copy"))).toBe(before);
  });

  it("follows no link, and stays on its filesystem", async () => {
    const [source, outside] = [join(dir, "source"), join(dir, "outside")];
    mkdirSync(outside);
    writeFileSync(join(outside, "file"), "x");
    execFileSync("ln", ["-s", outside, source]);
    await expectFailure(launcher.copy(source, join(dir, "a"), {}), "runtime_failed");
    rmSync(source);
    mkdirSync(join(source, "mounted"), { recursive: true });
    execFileSync("mount", ["-t", "tmpfs", "warren-test", join(source, "mounted")]);
    try {
      await expectFailure(launcher.copy(source, join(dir, "b"), {}), "runtime_failed");
    } finally {
      execFileSync("umount", [join(source, "mounted")]);
    }
  });

  it("says that the disk is full", async () => {
    const [disk, place] = [join(dir, "disk"), join(dir, "mnt")];
    mkdirSync(place);
    writeFileSync(disk, "");
    truncateSync(disk, 32 << 20);
    execFileSync("mkfs.ext4", ["-q", disk]);
    execFileSync("mount", ["-o", "loop", disk, place]);
    try {
      mkdirSync(join(place, "large"));
      writeFileSync(join(place, "large", "file"), Buffer.alloc(14 << 20, 1));
      await expectFailure(launcher.copy(join(place, "large"), join(place, "over"), {}), "no_space");
    } finally {
      execFileSync("umount", [place]);
    }
  }, 60_000);

  const noXfs = spawnSync("mkfs.xfs", ["-V"]).error ? " [not possible here: mkfs.xfs is missing]" : "";
  it.skipIf(noXfs)(`shares blocks where the filesystem can${noXfs}`, async () => {
    const [disk, place] = [join(dir, "disk"), join(dir, "mnt")];
    mkdirSync(place);
    writeFileSync(disk, "");
    truncateSync(disk, 512 << 20);
    execFileSync("mkfs.xfs", ["-q", disk]);
    execFileSync("mount", ["-o", "loop", disk, place]);
    try {
      mkdirSync(join(place, "s"));
      writeFileSync(join(place, "s", "file"), Buffer.alloc(20 << 20, "shared"));
      execFileSync("sync", ["-f", place]);
      const before = statfsSync(place).bfree;
      await launcher.copy(join(place, "s"), join(place, "t"), {});
      execFileSync("cmp", [join(place, "s", "file"), join(place, "t", "file")]);
      execFileSync("sync", ["-f", place]);
      const { bfree, bsize } = statfsSync(place);
      expect((before - bfree) * bsize).toBeLessThan(1 << 20);
    } finally {
      execFileSync("umount", [place]);
    }
  });

  it("ends when it is given up", async () => {
    mkdirSync(join(dir, "source"));
    execFileSync("sh", [
      "-c",
      'cd "$1" && i=0 && while [ $i -lt 300 ]; do echo > f$i; i=$((i+1)); done',
      "sh",
      join(dir, "source"),
    ]);
    const controller = new AbortController();
    const attempt = launcher.copy(join(dir, "source"), join(dir, "target"), { signal: controller.signal });
    controller.abort();
    await expectFailure(attempt, "cancelled");
    await launcher.ready();
  });
});

/** How deep the directory of single directories is, and what lies at its end. */
const countDeep = `
import os, sys
fd, n = os.open(sys.argv[1], os.O_RDONLY), 0
while "directory" in os.listdir(fd):
    below = os.open("directory", os.O_RDONLY, dir_fd=fd); os.close(fd); fd = below; n += 1
print(n, os.listdir(fd))
`;
