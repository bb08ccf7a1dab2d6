// The parts of transparent capture, which only these files know: capture.c sets up what leads connections here, dns.c answers
// names, nameserver.c is asked for them.
#ifndef WARREN_CAPTURE_H
#define WARREN_CAPTURE_H

#include "guest.h"

// ---- dns.c

/// Addresses of RFC 2544, which nobody routes. This one is the sandbox's own, on lo.
#define OWN_ADDRESS 0xc6120001u // 198.18.0.1
/// Where our name server has its socket; any other address with port 53 will do as well.
#define SERVER_ADDRESS 0xc6120002u // 198.18.0.2
/// 198.19.0.0/16: names.
#define NAMES_NETWORK 0xc6130000u
#ifndef MOST_NAMES
#define MOST_NAMES (1 << 16) // as many as there are addresses; 17 MiB when all are taken
#endif
enum { DNS_PORT = 53, MAX_NAME = 253, MAX_ANSWER = 1024 };

/// Makes the table of names, in memory that processes forked later share. False: no memory.
bool dns_open(void);
/// The name that this address was given for; NULL: none, or no longer.
const char *dns_name(uint32_t address);
/// Answers a query: bytes of the answer, 0: there is none.
size_t dns_answer(const unsigned char *query, size_t bytes, unsigned char answer[MAX_ANSWER]);
/// Forgets all names when whoever had the table before was killed while changing it.
void dns_resume(void);

// ---- nameserver.c

/// Begins to answer, in the relay's loop. False with errno.
bool nameserver_open(void);

#endif
