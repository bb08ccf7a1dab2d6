import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";

/** Beside coreutils: what the suites run inside. */
const programs = [
  "/bin/sh",
  "/bin/grep",
  "/bin/sed",
  "/bin/mount",
  "/bin/umount",
  "/usr/bin/perl",
  "/usr/bin/setsid",
  "/usr/bin/unshare",
];

/** The test image's users: `dev` owns nothing of the image. */
export const imageUsers = { dev: { uid: 1234, gid: 1235 } } as const;

const accounts = {
  passwd: [
    "root:x:0:0:root:/root:/bin/sh",
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
    `dev:x:${imageUsers.dev.uid}:${imageUsers.dev.gid}:Developer:/home/dev:/bin/sh`,
  ],
  group: ["root:x:0:", "nogroup:x:65534:", `dev:x:${imageUsers.dev.gid}:`],
};

/**
 * Writes a root filesystem as an uncompressed tar: a POSIX shell, coreutils and perl, as this machine (a Debian) has them, so
 * that no registry is needed.
 */
export function writeImageTar(path: string): void {
  const stage = mkdtempSync(join(tmpdir(), "wimage-"));
  try {
    for (const dir of ["etc", "root", "opt", "home/dev", "proc", "sys", "dev", "run"]) {
      mkdirSync(join(stage, dir), { recursive: true });
    }
    for (const dir of ["tmp", "var/tmp"]) {
      mkdirSync(join(stage, dir), { recursive: true });
      chmodSync(join(stage, dir), 0o1777);
    }
    chmodSync(stage, 0o755);
    chmodSync(join(stage, "root"), 0o700);
    for (const [file, lines] of Object.entries(accounts)) {
      writeFileSync(join(stage, "etc", file), `${lines.join("\n")}\n`);
    }
    const list = join(stage, ".files");
    writeFileSync(list, `${hostFiles().join("\0")}\0`);
    execFileSync("tar", ["-C", stage, "--owner=0", "--group=0", "--exclude=./.files", "-cf", path, "."]);
    // Relative names and no renaming: the targets of links stay what they are.
    execFileSync("tar", ["-C", "/", "--no-recursion", "--null", "--files-from", list, "-rf", path]);
  } finally {
    rmSync(stage, { recursive: true });
  }
}

/** Paths without the leading slash, directories before what is in them. */
function hostFiles(): string[] {
  const owned = (name: string) => execFileSync("dpkg", ["-L", name], { encoding: "utf8" }).split("\n");
  const wanted = new Set([
    ...programs,
    ...owned("coreutils").filter((file) => /^(\/usr)?\/s?bin\/./.test(file)),
  ]);
  const perl = owned("perl-base").filter((file) => /\/lib\/.*\/perl-base\//.test(file));
  const paths = new Set<string>(["/bin", "/sbin", "/lib", "/lib64"].filter((path) => lstatOrUndefined(path)));
  const add = (path: string) => {
    const real = join(realpathSync(dirname(path)), basename(path));
    if (paths.has(real)) return;
    const parents = real.split("/").slice(1, -1);
    for (let i = 1; i <= parents.length; i++) paths.add(`/${parents.slice(0, i).join("/")}`);
    paths.add(real);
    if (lstatSync(real).isSymbolicLink()) {
      const target = readlinkSync(real);
      add(target.startsWith("/") ? target : join(dirname(real), target));
    }
  };
  for (const file of [...wanted, ...perl]) add(file);
  const binaries = [...wanted, ...perl.filter((file) => file.endsWith(".so"))];
  for (const library of librariesOf(binaries)) add(library);
  return [...paths].map((path) => path.slice(1));
}

function librariesOf(files: readonly string[]): Set<string> {
  // It fails for scripts, and tells of all others nevertheless.
  const { stdout } = spawnSync("ldd", files, { encoding: "utf8" });
  return new Set([...stdout.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] as string));
}

function lstatOrUndefined(path: string) {
  return lstatSync(path, { throwIfNoEntry: false });
}
