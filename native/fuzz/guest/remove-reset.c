// The product's file, and a way back to where its process began.
#include "../../guest/remove.c"

void fuzz_reset_remove(void);
void fuzz_reset_remove(void) { memset(&stack, 0, sizeof stack); }
