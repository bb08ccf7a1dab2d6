// The product's file, and a way back to where its process began.
#include "../../guest/watch.c"

void fuzz_reset_watch(void);
void fuzz_reset_watch(void) { memset(&w, 0, sizeof w); }
