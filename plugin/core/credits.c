#include "core/credits.h"

static bool add(tpv_credits_t *credits, int32_t tag, int64_t change) {
    unsigned i = 0;
    while (i < credits->used && credits->tags[i].tag != tag)
        i++;
    if (i == credits->used) {
        if (i == TPV_CREDIT_TAGS_MAX) return false;
        credits->tags[credits->used++].tag = tag;
        credits->tags[i].balance = 0;
    }
    if (__builtin_add_overflow(credits->tags[i].balance, change, &credits->tags[i].balance)) return false;
    if (credits->tags[i].balance == 0) credits->tags[i] = credits->tags[--credits->used];
    return true;
}

bool tpv_credits_take(tpv_credits_t *credits, int32_t tag) {
    if (!credits->noticed) {
        if (!credits->any) credits->first_tag = tag;
        credits->any = true;
        if (tag != credits->first_tag) return false;
        credits->first_sent++;
        return true;
    }
    for (unsigned i = 0; i < credits->used; i++)
        if (credits->tags[i].tag == tag && credits->tags[i].balance > 0) return add(credits, tag, -1);
    return false;
}

ncclResult_t tpv_credits_add(tpv_credits_t *credits, const tpv_notice_t *notice) {
    if (notice->magic != TPV_NOTICE_MAGIC || notice->count == 0 || notice->count > INT64_MAX) return ncclRemoteError;
    if (!credits->noticed) {
        credits->noticed = true;
        if (credits->any) add(credits, credits->first_tag, -(int64_t)credits->first_sent);
    }
    return add(credits, notice->tag, (int64_t)notice->count) ? ncclSuccess : ncclRemoteError;
}
