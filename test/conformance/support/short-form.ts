/** What an engine builds on a runtime's lifecycle. What goes through the guest alone is the same everywhere. */
const short = [
  "is well, and says what it is",
  "creates a sandbox that runs, and finds it again",
  "stops and starts with all files kept",
  "removes once",
  "runs a command and tells all of it",
  "gives a terminal that can be resized and interrupted",
  "kills a command's whole tree at its timeout, and keeps what was said",
  "keeps the main command's stdout and stderr, apart, also after its end",
  "follows until a text has come, in parts too, or the time is up",
  "keeps what was said before a stop and what is said after a start",
  "stops when its main command ends, and tells its exit code",
  "tells those who wait of an end without an exit code",
  "sees that a sandbox was killed, and starts it again with its files",
  "prunes stopped sandboxes and no others",
  "lets a sandbox reach what its rules allow, and nothing else",
  "lets programs that know no proxy reach what its rules allow, by name and by address",
  "changes the rules while it runs, and keeps them over stop and start",
  "adds secrets to requests to their hosts, and shows them nowhere",
  "has a sandbox trust the engine where it stands in for the host of a secret",
  "gives programs inside cloud credentials in any network, replaces them, and shows them nowhere else",
  "lets programs inside sign with an SSH agent in any network, and change nothing of it",
  "restores a sandbox with its files and every setting, when the original is gone, and shows no secret",
  "publishes ports though there is no network, with half-close, over stop and start",
  "publishes UDP, each client apart from the others",
];
/** What a runtime itself does. */
const runtime = [
  "says what it can do",
  "creates without running anything, then runs",
  "keeps files over stop and start",
  "leaves nothing of a create that fails",
  "sees that a sandbox's first process was killed",
  "tells what a sandbox uses",
  "keeps stdout and stderr apart, and tells the exit code",
  "carries stdin to its end",
  "gives a terminal that can be resized and interrupted",
  "streams a file that is larger than any buffer",
  "reaches a port inside, and only inside",
  "starts the main command, and tells its end",
  "tells by its wait connection that the guest is gone",
  "keeps a read-only root as it is",
  "freezes and thaws, and ends what is frozen",
  "captures what programs that know no proxy connect to, or says that it can't",
  "keeps nothing of what it captures with",
  "outlives its sandbox, and sandboxes that are made of it outlive it",
  "brings programs to services of the host, at a socket and a port, in every network",
];

const unlessLong = (tests: readonly string[]) =>
  process.env.WARREN_LONG === "1" ? {} : { only: { tests, why: "slow: runs with WARREN_LONG=1" } };

/** Of `testApi()` and of `testRuntime()`, for what differs by little from what another run of the suite has in full. */
export const shortForm = unlessLong(short);
export const shortRuntime = unlessLong(runtime);
