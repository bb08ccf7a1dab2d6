// nf_tables rules of this network namespace, spoken over netlink: what guard.c and its like need of it. A batch takes effect as
// a whole or not at all. Constants are those of linux/netfilter/nf_tables.h, which musl's headers don't have.
#ifndef WARREN_NFTABLES_H
#define WARREN_NFTABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NF_LOCAL_IN = 1, NF_LOCAL_OUT = 3, NF_PRE_ROUTING = 0 };
enum { NF_PRIORITY_RAW = -300, NF_PRIORITY_FILTER = 0 };
enum { NF_VERDICT_DROP = 0, NF_VERDICT_ACCEPT = 1 };
enum { NF_META_IIFTYPE = 8, NF_META_OIFTYPE = 9, NF_META_NFPROTO = 15, NF_META_L4PROTO = 16 };
enum { NF_PROTO_IPV4 = 2, NF_PROTO_IPV6 = 10 };
enum { NF_NETWORK_HEADER = 1, NF_TRANSPORT_HEADER = 2 };
enum { NF_CMP_EQ = 0, NF_CMP_LTE = 3, NF_CMP_GTE = 5 };
enum { NF_CT_ESTABLISHED = 2, NF_CT_RELATED = 4 };

struct nft {
  unsigned char *data;
  size_t used, size;
  uint32_t sequence;
  bool full;
  // Of what is open in the rule that is being written; see nft_rule().
  size_t message, expressions;
};

/// False: no memory. `size` bytes hold the whole batch; one that does not fit fails as a whole with ENOBUFS.
bool nft_begin(struct nft *n, size_t size);
/// A table of family inet; one of that name already is an error.
void nft_table(struct nft *n, const char *table);
/// A base chain. `policy` is a verdict.
void nft_chain(struct nft *n, const char *table, const char *chain, const char *type, uint32_t hook, int32_t priority,
               uint32_t policy);
/// Opens a rule at the end of a chain; what follows are its expressions, until nft_rule_end().
void nft_rule(struct nft *n, const char *table, const char *chain);
void nft_rule_end(struct nft *n);

/// Goes on when the packet's property is (or compares to) the value.
void nft_if_meta(struct nft *n, uint32_t key, const void *value, size_t bytes);
void nft_if_payload(struct nft *n, uint32_t header, uint32_t offset, uint32_t comparison, const void *value, size_t bytes);
/// Goes on when these bytes, as far as `mask` has bits, are `value`.
void nft_if_masked(struct nft *n, uint32_t header, uint32_t offset, const void *value, const void *mask, size_t bytes);
/// Goes on when the connection is in one of these states.
void nft_if_state(struct nft *n, uint32_t states);
/// Goes on when more connections than that have come here and have not ended.
void nft_if_more_than(struct nft *n, uint32_t connections);
void nft_verdict(struct nft *n, uint32_t verdict);
/// Ends the packet with an ICMP error: administratively prohibited.
void nft_reject(struct nft *n);
/// Connections of this packet are not tracked.
void nft_notrack(struct nft *n);

/// Sends the batch and waits for the kernel's answer. False with errno. The batch is gone either way.
bool nft_commit(struct nft *n);

#endif
