// A small filesystem that a target's file requests are confined to, and the replies' checker.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Once, before the first request: makes all that this machine has read-only for this process, and the box.
void box_open(char *const *writable_dirs);
// Before each request: as it was at first.
void box_reset(void);
// After each request: closes what the product left to the end of its process.
void box_close_all(void);

// kernel.c
void kernel_reset(const uint8_t *data, size_t bytes);

// replies.c: checks what goes to the host against docs/wire/guest.md.
void replies_reset(unsigned request_type);
void replies_take(const void *data, size_t bytes);
void replies_end(void);
