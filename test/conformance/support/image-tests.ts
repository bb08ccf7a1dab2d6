/** The suite's tests of images: all else is tested without a store. */
export const imageTests = {
  why: "tested without a store of images",
  tests: [
    "builds an image of a tar, runs it, and removes it when nobody uses it",
    "passes a build its file, arguments and target",
    "tells why a build failed, and gives nothing its tag",
    "lets a caller give up on a build, and gives nothing its tag then",
    "refuses contexts that are no whole tar, and builds nothing of them",
    "refuses references and requests that make no sense",
    "pulls an image, tells how it goes, and has it then",
    "says that a pull failed, and leaves nothing",
  ],
} as const;
