/* The body of a request while it is read, in memory that the budget knows of. */
#ifndef SERVICE_BODY_H
#define SERVICE_BODY_H

#include <stdbool.h>
#include <stddef.h>

/* Where the memory of longer bodies is accounted for. Any HTTP thread. */
typedef struct tpv_body_account {
    void *user;
    bool (*reserve)(void *user, size_t bytes); /* false when they are not to be had */
    void (*unreserve)(void *user, size_t bytes);
} tpv_body_account_t;

/* Owned by its exchange; all zero when empty. */
typedef struct tpv_body {
    char *bytes; /* with a zero behind, which is not in length; NULL when there are none */
    size_t length, room;
    size_t reserved; /* of the account */
} tpv_body_t;

#define TPV_BODY_SMALL ((size_t)64 << 10) /* what needs no more room is not accounted for */

/* Append; the room is at most twice what is needed. False when it grows beyond `most` or there is no memory for it. */
bool tpv_body_append(tpv_body_t *body, const tpv_body_account_t *account, const char *data, size_t bytes, size_t most);
/* Free it; it is empty afterwards. */
void tpv_body_clear(tpv_body_t *body, const tpv_body_account_t *account);

#endif
