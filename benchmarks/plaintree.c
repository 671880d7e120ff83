// SPDX-License-Identifier: Apache-2.0
/*
 * What the sector index is compared with: the compact btree of Linux dm-table.c as the kernel has
 * it, one lookup at a time, no vectors (-fno-tree-vectorize), no prefetch. 8 keys a node, 9 children, every level one
 * array, child positions computed.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS = 8, CHILDREN = KEYS + 1, LEVELS_MOST = 20 };

struct plain_tree {
    unsigned depth;
    size_t counts[LEVELS_MOST];    /* nodes */
    uint64_t *index[LEVELS_MOST];  /* root first */
};

static uint64_t high(const struct plain_tree *t, unsigned level, size_t node)
{
    for (; level + 1 < t->depth; level++)
        node = node * CHILDREN + CHILDREN - 1;
    return node < t->counts[level] ? t->index[level][node * KEYS + KEYS - 1] : UINT64_MAX;
}

void plain_tree_free(struct plain_tree *t)
{
    for (unsigned l = 0; t && l < t->depth; l++)
        free(t->index[l]);
    free(t);
}

struct plain_tree *plain_tree_make(const uint64_t *keys, size_t count)
{
    struct plain_tree *t = calloc(1, sizeof(*t));
    size_t nodes = count / KEYS + 1; /* room for one more: no lookup may leave the tree */

    if (!t)
        return NULL;
    for (size_t n = nodes; t->depth++, n > 1;)
        n = (n + CHILDREN - 1) / CHILDREN;
    for (unsigned l = t->depth; l--; nodes = (nodes + CHILDREN - 1) / CHILDREN) {
        t->counts[l] = nodes;
        t->index[l] = aligned_alloc(64, nodes * KEYS * sizeof(uint64_t));
        if (!t->index[l]) {
            plain_tree_free(t);
            return NULL;
        }
        if (l + 1 == t->depth) {
            memset(t->index[l], 0xff, nodes * KEYS * sizeof(uint64_t));
            memcpy(t->index[l], keys, count * sizeof(*keys));
            continue;
        }
        for (size_t n = 0; n < nodes; n++)
            for (size_t k = 0; k < KEYS; k++)
                t->index[l][n * KEYS + k] = high(t, l + 1, n * CHILDREN + k);
    }
    return t;
}

/* As dm_table_find_target has it: the first key that is not below the one sought. */
void plain_tree_find_many(const struct plain_tree *t, const uint64_t *keys, uint64_t *out,
                          size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t n = 0, k = 0;

        for (unsigned l = 0; l < t->depth; l++) {
            const uint64_t *node;

            n = l ? n * CHILDREN + k : 0;
            node = t->index[l] + n * KEYS;
            for (k = 0; k < KEYS; k++)
                if (node[k] >= keys[i])
                    break;
        }
        out[i] = n * KEYS + k;
    }
}

/* The same without a branch to mispredict: how many keys are below the one sought. */
void plain_tree_count_many(const struct plain_tree *t, const uint64_t *keys, uint64_t *out,
                           size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t n = 0, k = 0;

        for (unsigned l = 0; l < t->depth; l++) {
            const uint64_t *node;

            n = l ? n * CHILDREN + k : 0;
            node = t->index[l] + n * KEYS;
            k = 0;
            for (unsigned j = 0; j < KEYS; j++)
                k += node[j] < keys[i];
        }
        out[i] = n * KEYS + k;
    }
}
