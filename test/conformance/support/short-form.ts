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
  "publishes ports though there is no network, with half-close, over stop and start",
  "publishes UDP, each client apart from the others",
];
/** For what differs from what another run of the suite has in full by little. */
export const shortForm =
  process.env.WARREN_LONG === "1" ? {} : { only: { tests: short, why: "slow: runs with WARREN_LONG=1" } };
