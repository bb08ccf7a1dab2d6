// What all fuzz targets share. A target runs the product's own sources in one process; a header that is included before
// them (redirect.h) sends the calls with effects here.
//
// An input is one byte n, n bytes of "weather" and then what the peer sends. The weather decides what the kernel answers:
// short reads, errors, how long a command lives. When it is used up, every choice is the first, which is the usual one.
#pragma once
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct fuzz_input {
  const uint8_t *at;
  size_t left;
};

// Takes the weather off `data`; what remains is the peer's.
struct fuzz_input fuzz_begin(const uint8_t *data, size_t size);
// 0 … count-1, from the weather.
unsigned fuzz_choose(unsigned count);
// Ends the run with a finding.
_Noreturn void fuzz_finding(const char *what);
// Makes the sanitizer look at every byte.
void fuzz_look_at(const void *data, size_t bytes);
void fuzz_look_at_text(const char *text);
void fuzz_look_at_list(char *const *list);

// Memory that the product leaves to the end of its process is freed by fuzz_free_all.
void *fuzz_malloc(size_t bytes);
void *fuzz_calloc(size_t count, size_t bytes);
void *fuzz_realloc(void *old, size_t bytes);
char *fuzz_strdup(const char *text);
void fuzz_free(void *memory);
void fuzz_free_all(void);

// Variables of the source files whose name begins so: a request finds them as its process would, whatever came before.
void fuzz_save_statics(const char *source_prefix);
void fuzz_restore_statics(void);
#ifdef FUZZ_ANCHOR
// A variable that no other file has: without one clang does not list a file's variables in a way that can be read.
char FUZZ_ANCHOR;
#endif

// A clock that goes on by a millisecond whenever it is read, so that no loop waits for real time.
struct timespec;
int fuzz_clock_gettime(clockid_t clock, struct timespec *now);
void fuzz_pass_ms(uint64_t ms);

// A forked process runs at once, in its parent: its _exit() returns to the fork, which then returns as the parent.
enum { FUZZ_PID = 0x3ffffff0, FUZZ_MOST_PROCESSES = 8 };
extern jmp_buf fuzz_process[FUZZ_MOST_PROCESSES];
extern unsigned fuzz_depth;
extern int fuzz_exit_code;
// Where to be in fuzz_process; ends with a finding when processes are nested too deeply.
unsigned fuzz_new_process(void);
#define FUZZ_FORK() (setjmp(fuzz_process[fuzz_new_process()]) == 0 ? 0 : FUZZ_PID)
_Noreturn void fuzz_exit(int code);
