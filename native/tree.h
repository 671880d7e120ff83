// SPDX-License-Identifier: Apache-2.0
/*
 * The compact btree of Linux drivers/md/dm-table.c: a node is one 64-byte cache line of 8 keys
 * and has 9 children, whose positions are computed. dmtool/btree.py says how, and is the
 * specification; the tests hold both to bisect_left.
 *
 * Keys are kept with their top bit flipped, as signed numbers: AVX2 compares 64-bit integers as
 * signed only, and the flip makes the signed order the unsigned one.
 *
 * A tree never changes once it is made, so any thread may look things up in it, with or without
 * the GIL. Part of btree.c, which includes Python.h first: memory is Python's (PyMem_Malloc).
 */
#ifndef DMTOOL_TREE_H
#define DMTOOL_TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#define HAVE_AVX2
#include <immintrin.h>
#endif

#define NODE_BYTES 64
#define KEYS 8                            /* of a node */
#define CHILDREN (KEYS + 1)
#define LEVELS_MAX 20                     /* 9^19 leaves are more than memory can hold */
#define IN_FLIGHT 32                      /* lookups of one batch that wait for memory together */
#define TOP_BIT (UINT64_C(1) << 63)
#define PADDING INT64_MAX                 /* key 2^64-1, flipped */
#define INLINE static inline __attribute__((always_inline))

struct tree {
    size_t len;                           /* keys */
    size_t nodes;                         /* of all levels */
    unsigned depth;                       /* levels, at least 1 */
    int64_t *level[LEVELS_MAX];           /* root first, leaves last; each 64-byte aligned */
    void *block;                          /* the allocation that all levels lie in */
};

typedef size_t rank_function(const int64_t *node, int64_t key);

/* ---- lookups ------------------------------------------------------------------------------- */

/* How many keys of the node are below key: the number of the child, or entry, to go to. */
static inline size_t rank_scalar(const int64_t *node, int64_t key)
{
    size_t below = 0;

    for (int k = 0; k < KEYS; k++)
        below += node[k] < key;
    return below;
}

/*
 * The walk. It cannot leave the tree, whatever the key: the last child of a level has no upper
 * bound, and padding, being the greatest key, is below nothing.
 */
INLINE size_t walk(const struct tree *tree, int64_t key, rank_function *rank)
{
    size_t n = 0;
    unsigned l;

    for (l = 0; l + 1 < tree->depth; l++)
        n = n * CHILDREN + rank(tree->level[l] + n * KEYS, key);
    return n * KEYS + rank(tree->level[l] + n * KEYS, key);
}

/* The same for up to IN_FLIGHT keys, a level at a time, so that their cache misses overlap. */
INLINE void walk_group(const struct tree *tree, const char *keys, char *out, size_t count,
                       rank_function *rank)
{
    int64_t key[IN_FLIGHT];
    size_t n[IN_FLIGHT];
    unsigned l;

    for (size_t i = 0; i < count; i++) {
        uint64_t raw;

        memcpy(&raw, keys + i * sizeof(raw), sizeof(raw)); /* may lie unaligned */
        key[i] = (int64_t)(raw ^ TOP_BIT);
        n[i] = 0;
    }
    for (l = 0; l + 1 < tree->depth; l++) {
        const int64_t *level = tree->level[l], *next = tree->level[l + 1];

        for (size_t i = 0; i < count; i++) {
            n[i] = n[i] * CHILDREN + rank(level + n[i] * KEYS, key[i]);
            __builtin_prefetch(next + n[i] * KEYS);
        }
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t entry = n[i] * KEYS + rank(tree->level[l] + n[i] * KEYS, key[i]);

        memcpy(out + i * sizeof(entry), &entry, sizeof(entry));
    }
}

INLINE void walk_many(const struct tree *tree, const char *keys, char *out, size_t count,
                      rank_function *rank)
{
    const size_t group = IN_FLIGHT * sizeof(uint64_t);

    for (; count >= IN_FLIGHT; count -= IN_FLIGHT, keys += group, out += group)
        walk_group(tree, keys, out, IN_FLIGHT, rank);
    walk_group(tree, keys, out, count, rank);
}

static size_t find_scalar(const struct tree *tree, int64_t key)
{
    return walk(tree, key, rank_scalar);
}

static void find_many_scalar(const struct tree *tree, const char *keys, char *out, size_t count)
{
    walk_many(tree, keys, out, count, rank_scalar);
}

#ifdef HAVE_AVX2
#define AVX2 __attribute__((target("avx2,popcnt")))

AVX2 static inline size_t rank_avx2(const int64_t *node, int64_t key)
{
    const __m256i wanted = _mm256_set1_epi64x(key);
    const __m256i low = _mm256_load_si256((const __m256i *)node);
    const __m256i high = _mm256_load_si256((const __m256i *)(node + KEYS / 2));
    const __m256 both = _mm256_shuffle_ps( /* one half of each comparison, in any order */
        _mm256_castsi256_ps(_mm256_cmpgt_epi64(wanted, low)),
        _mm256_castsi256_ps(_mm256_cmpgt_epi64(wanted, high)), 0x88);

    return (size_t)_mm_popcnt_u32((unsigned)_mm256_movemask_ps(both));
}

AVX2 static size_t find_avx2(const struct tree *tree, int64_t key)
{
    return walk(tree, key, rank_avx2);
}

AVX2 static void find_many_avx2(const struct tree *tree, const char *keys, char *out, size_t count)
{
    walk_many(tree, keys, out, count, rank_avx2);
}

static bool simd_available(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
}
#else
#define find_avx2 find_scalar
#define find_many_avx2 find_many_scalar

static bool simd_available(void)
{
    return false;
}
#endif

/* ---- building ------------------------------------------------------------------------------ */

/* Room for len keys and the levels above them; false when there is no memory. Needs the GIL. */
static bool tree_allocate(struct tree *tree, size_t len)
{
    size_t counts[LEVELS_MAX] = {len ? (len - 1) / KEYS + 1 : 1}; /* leaves first */
    char *node;

    tree->len = len;
    tree->nodes = counts[0];
    tree->depth = 1;
    while (counts[tree->depth - 1] > 1) {
        counts[tree->depth] = (counts[tree->depth - 1] - 1) / CHILDREN + 1;
        tree->nodes += counts[tree->depth++];
    }
    tree->block = PyMem_Malloc(tree->nodes * NODE_BYTES + NODE_BYTES - 1);
    if (!tree->block)
        return false;
    node = (char *)(((uintptr_t)tree->block + NODE_BYTES - 1) & ~(uintptr_t)(NODE_BYTES - 1));
    for (unsigned l = 0; l < tree->depth; l++) {
        tree->level[l] = (int64_t *)node;
        node += counts[tree->depth - 1 - l] * NODE_BYTES;
    }
    return true;
}

static int64_t *leaves(const struct tree *tree)
{
    return tree->level[tree->depth - 1];
}

static uint64_t tree_key(const struct tree *tree, size_t entry)
{
    return (uint64_t)leaves(tree)[entry] ^ TOP_BIT;
}

/* Takes the leaf keys from native uint64s, which may lie unaligned. */
static void tree_copy(struct tree *tree, const char *keys)
{
    for (size_t i = 0; i < tree->len; i++) {
        uint64_t key;

        memcpy(&key, keys + i * sizeof(key), sizeof(key));
        leaves(tree)[i] = (int64_t)(key ^ TOP_BIT);
    }
}

/*
 * Makes the levels above the leaf keys. Returns the number of the first key that is not above
 * the one before it, or tree->len when all is well.
 */
static size_t tree_index(struct tree *tree)
{
    int64_t *leaf = leaves(tree);
    size_t len = tree->len;
    size_t span = KEYS; /* entries under one child of the level at hand, were its subtree full */
    bool ascending = true;

    for (size_t i = 1; i < len; i++)
        ascending &= leaf[i - 1] < leaf[i];
    for (size_t i = 1; !ascending; i++)
        if (leaf[i - 1] >= leaf[i])
            return i;
    for (size_t i = len; i == 0 || i % KEYS; i++)
        leaf[i] = PADDING;
    for (unsigned l = tree->depth - 1; l-- > 0; span *= CHILDREN) {
        size_t nodes = (size_t)(tree->level[l + 1] - tree->level[l]) / KEYS;

        for (size_t n = 0; n < nodes; n++)
            for (size_t k = 0; k < KEYS; k++) {
                size_t last = (n * CHILDREN + k + 1) * span - 1; /* entry under child k */

                tree->level[l][n * KEYS + k] = last + 1 < len ? leaf[last] : PADDING;
            }
    }
    return tree->len;
}

#endif
