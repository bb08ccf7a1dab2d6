/**
 * How names begin of what tests put into the host's own directories, where sandboxes of the image `host` see it: those of other tests
 * too, which run at the same time.
 */
export const OF_TESTS = "warren-hostile-";

/** True for a path that no other test is the reason of. */
export const isNoOtherTests = (line: string): boolean => !line.includes(`/${OF_TESTS}`);
