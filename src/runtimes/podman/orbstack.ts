import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { WarrenError } from "../../contracts/errors.ts";
import type { Runtime } from "../../contracts/runtime.ts";
import { isGone } from "../../lib/files.ts";
import type { Logger } from "../../lib/log.ts";
import { type GuestArch, guestProgramOf } from "../../lib/native.ts";
import { createSingleFlight } from "../../lib/single-flight.ts";
import { createApiClient } from "../containers/api-client.ts";
import type { OrbSettings, RuntimeOptions } from "../factory.ts";
import { type PodmanMachine, podmanGuards } from "./guards.ts";
import { openPodman } from "./open-podman.ts";
import { createOrb, insideArgs, type Orb } from "./orb.ts";
import { missingRange } from "./subordinate-ranges.ts";

/** Of a machine that we make: its Podman is one that our tests run. */
const DISTRO = "debian:bookworm";
/** A first create downloads an image. */
const CREATE_TIMEOUT_MS = 900_000;
const INSTALL_TIMEOUT_MS = 900_000;
const BOOT_TIMEOUT_MS = 60_000;
/** Seconds without a request after which the service in the machine ends. */
const IDLE_S = 300;
const SERVICE_TIMEOUT_S = 20;

/** How each package manager is told to install Podman, without a question. `apt-get` knows no package before its update. */
const installers: Readonly<Record<string, readonly (readonly string[])[]>> = {
  "apt-get": [
    ["apt-get", "update"],
    ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "podman", "uidmap"],
  ],
  dnf: [["dnf", "install", "-y", "podman"]],
  zypper: [["zypper", "--non-interactive", "install", "podman"]],
  pacman: [["pacman", "-Sy", "--noconfirm", "podman"]],
  apk: [["apk", "add", "podman"]],
};

// Constant texts: what varies comes as $1 and so on.
const findInstaller = 'for p do command -v "$p" >/dev/null && { echo "$p"; exit 0; }; done; exit 1';
const appendLine = 'grep -qxF -- "$2" "$1" 2>/dev/null || printf "%s\\n" "$2" >>"$1"';
const writeFile =
  'umask 077; mkdir -p -- "$1" && { test -s "$2" || { cat >"$2.new.$$" && mv -f -- "$2.new.$$" "$2"; }; }';
/** Starts the service, unless one answers, and waits for it. Its last words are ours when it does not come. */
const startService = `
mkdir -p -- "$1" && chmod 700 -- "$1" || exit
answers() { podman --url="unix://$1/api" version >/dev/null 2>&1; }
answers "$1" && exit 0
rm -f -- "$1/api"
setsid podman system service --time="$2" "unix://$1/api" </dev/null >/dev/null 2>"$1/service.log" &
echo "$!" >"$1/service.pid"
i=0
while [ "$i" -lt "$3" ]; do
  answers "$1" && exit 0
  sleep 1; i=$((i + 1))
done
cat -- "$1/service.log" >&2
exit 1`;

/** Ends it, if it is ours, and waits for that. */
const endService = `
pid=$(cat -- "$1/service.pid" 2>/dev/null) || exit 0
tr "\\0" " " <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "unix://$1/api" && kill -TERM "$pid"
i=0
while [ -e "/proc/$pid" ] && [ "$i" -lt "$2" ]; do sleep 1; i=$((i + 1)); done
rm -f -- "$1/service.pid" "$1/api"`;

/** What the steps have found out. */
interface Ready {
  user: { name: string; uid: number };
  arch: GuestArch;
  /** Absolute, in the machine: ours. */
  dir: string;
}

/** Podman in a machine of OrbStack's, which is made ready first: only what is missing is done. */
export async function openOrbStack(options: RuntimeOptions, { machine }: OrbSettings): Promise<Runtime> {
  const { ownerId, log } = options;
  const orb = createOrb(machine, process.env);
  const flight = createSingleFlight<Ready>();
  const ensureReady = () => flight.run("ready", () => makeReady(orb, ownerId, log));
  const { user, arch, dir } = await ensureReady();
  const guestProgram = await readGuestOf(arch);
  const guards = await podmanGuards(machineOf(orb, dir));
  const client = createApiClient(
    {
      kind: "command",
      argv: ["orb", ...insideArgs(machine), "podman", `--url=unix://${dir}/api`, "system", "dial-stdio"],
      hint: () => `orb -m ${machine} podman info tells more`,
    },
    {
      revive: async () => {
        await ensureReady();
      },
    },
  );
  const close = async () => {
    client.close();
    await flight.close();
    await orb.inside(["sh", "-c", endService, "sh", dir, String(SERVICE_TIMEOUT_S)]);
  };
  try {
    return await openPodman(options, {
      client,
      uid: user.uid,
      guestProgram,
      guards,
      close,
    });
  } catch (error) {
    await close();
    throw error;
  }
}

function machineOf(orb: Orb, dir: string): PodmanMachine {
  return {
    async placeFilter(filter) {
      // Its name changes with its content, so that containers that were made with another can start again.
      const path = `${dir}/seccomp-${createHash("sha256").update(filter).digest("hex").slice(0, 24)}.json`;
      await orb.require(
        ["sh", "-c", writeFile, "sh", dir, path],
        "the seccomp filter can't be put in place",
        {
          stdin: Buffer.from(filter),
        },
      );
      return path;
    },
    readFile: (path) => orb.require(["cat", path], `${path} can't be read in the machine`),
  };
}

/** For tests, too. Throws `runtime_unavailable` with the tool's own words. */
export async function makeReady(orb: Orb, ownerId: string, log: Logger): Promise<Ready> {
  await ensureMachine(orb, log);
  await ensurePodman(orb, log);
  const [user, arch, home] = await Promise.all([userOf(orb), archOf(orb), homeOf(orb)]);
  if (user.uid !== 0) await ensureRanges(orb, user, log);
  const dir = `${home}/.local/share/warren/${ownerId}`;
  await orb.require(
    ["sh", "-c", startService, "sh", dir, String(IDLE_S), String(SERVICE_TIMEOUT_S)],
    `podman's service can't be started in the machine ${orb.machine}`,
    { hint: `orb -m ${orb.machine} podman info tells more` },
  );
  return { user, arch, dir };
}

async function ensureMachine(orb: Orb, log: Logger): Promise<void> {
  const { machine } = orb;
  if (!(await orb.isRunning())) {
    log.info({}, "starting OrbStack");
    await orb.command(["start"], "OrbStack can't be started");
    if (!(await orb.isRunning())) {
      throw new WarrenError("runtime_unavailable", "OrbStack was started but does not run", {
        hint: "open the OrbStack app once, and see what it asks for",
      });
    }
  }
  let state = await stateOf(orb);
  if (state === undefined) {
    log.info({ machine, distro: DISTRO }, "making a machine; the first time it is downloaded");
    await orb.command(["create", DISTRO, machine], `the machine ${machine} can't be made`, CREATE_TIMEOUT_MS);
    state = await stateOf(orb);
  }
  if (state === "running") return;
  log.info({ machine }, "starting the machine");
  await orb.command(["start", machine], `the machine ${machine} can't be started`);
  const end = performance.now() + BOOT_TIMEOUT_MS;
  for (;;) {
    state = await stateOf(orb);
    if (state === "running") return;
    if (performance.now() > end) {
      throw new WarrenError(
        "runtime_unavailable",
        `the machine ${machine} was started but is ${state ?? "gone"}`,
        { hint: `orb logs ${machine} tells more` },
      );
    }
    await sleep(200);
  }
}

async function stateOf(orb: Orb): Promise<string | undefined> {
  return (await orb.machines()).find(({ name }) => name === orb.machine)?.state.toLowerCase();
}

async function ensurePodman(orb: Orb, log: Logger): Promise<void> {
  const found = await orb.inside(["sh", "-c", findInstaller, "sh", "podman"]);
  if (found.code === 0) return;
  const names = Object.keys(installers);
  const installer = await orb.require(
    ["sh", "-c", findInstaller, "sh", ...names],
    `the machine ${orb.machine} has no podman, and none of ${names.join(", ")} to install it with`,
    { hint: `install podman there: orb -m ${orb.machine} -u root …` },
  );
  log.info({ machine: orb.machine, installer }, "installing podman");
  for (const argv of installers[installer] ?? []) {
    await orb.require(argv, `podman can't be installed in the machine ${orb.machine}`, {
      asRoot: true,
      timeoutMs: INSTALL_TIMEOUT_MS,
      hint: `orb -m ${orb.machine} -u root ${argv.join(" ")}`,
    });
  }
  await orb.require(
    ["sh", "-c", findInstaller, "sh", "podman"],
    `podman was installed in the machine ${orb.machine} but is not there`,
  );
}

async function userOf(orb: Orb): Promise<Ready["user"]> {
  const ask = (option: string) => orb.require(["id", option], "the machine does not say who its user is");
  const [name, uid] = await Promise.all([ask("-un"), ask("-u")]);
  // It goes into a file whose lines are parted by colons.
  if (!/^[a-zA-Z_][a-zA-Z0-9_.-]{0,31}$/.test(name) || !/^\d{1,10}$/.test(uid)) {
    throw new WarrenError("runtime_unavailable", "the machine's user has a name that can't be one");
  }
  return { name, uid: Number(uid) };
}

async function homeOf(orb: Orb): Promise<string> {
  const home = await orb.require(["sh", "-c", 'printf "%s" "$HOME"'], "the machine's user has no home");
  if (/^\/[^\0\n]{0,80}$/.test(home)) return home.replace(/\/+$/, "");
  throw new WarrenError("runtime_unavailable", "the machine's user has a home that can't be one");
}

async function archOf(orb: Orb): Promise<GuestArch> {
  const name = await orb.require(["uname", "-m"], "the machine does not say what it is");
  if (name === "x86_64") return "x64";
  if (name === "aarch64") return "arm64";
  throw new WarrenError(
    "runtime_unavailable",
    `there are no sandboxes on ${JSON.stringify(name.slice(0, 40))}`,
  );
}

/** The ids that a rootless Podman gives to the users of its containers. */
async function ensureRanges(orb: Orb, user: Ready["user"], log: Logger): Promise<void> {
  const paths = ["/etc/subuid", "/etc/subgid"];
  const texts = await Promise.all(
    paths.map(async (path) => (await orb.inside(["cat", path])).stdout.toString("utf8")),
  );
  let isChanged = false;
  for (const [i, path] of paths.entries()) {
    const line = missingRange(texts[i] as string, texts, user);
    if (line === undefined) continue;
    log.info({ machine: orb.machine, path, line }, "giving the user ids for its containers");
    await orb.require(["sh", "-c", appendLine, "sh", path, line], `${path} can't be changed`, {
      asRoot: true,
    });
    isChanged = true;
  }
  if (isChanged) await orb.require(["podman", "system", "migrate"], "podman does not take its new ids");
}

/** @throws WarrenError `runtime_unavailable` when it is not built for that architecture */
async function readGuestOf(arch: GuestArch): Promise<Buffer> {
  for (const path of guestProgramOf(arch)) {
    const bytes = await readFile(path).catch((error: unknown) => {
      if (isGone(error)) return undefined;
      throw error;
    });
    if (bytes && elfArch(bytes) === arch) return bytes;
  }
  throw new WarrenError("runtime_unavailable", `the guest program is not built for Linux on ${arch}`, {
    hint: `run make -C native guest on such a machine, and copy warren-guest to native/build/warren-guest-linux-${arch}`,
  });
}

/** e_machine of elf(5), of a 64-bit little endian file. */
function elfArch(bytes: Buffer): GuestArch | undefined {
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2 || bytes[5] !== 1)
    return undefined;
  return ({ 62: "x64", 183: "arm64" } as const)[bytes.readUInt16LE(18)];
}
