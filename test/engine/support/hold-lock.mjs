// Takes the lock of the directory in argv[2], says so, and holds it until it is killed.
import { lockStateDir } from "../../../src/engine/lock.ts";

try {
  lockStateDir(process.argv[2]);
} catch (error) {
  process.stderr.write(`${error.code}\n`);
  process.exit(1);
}
process.stdout.write("locked\n");
setInterval(() => {}, 60_000);
