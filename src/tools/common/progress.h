/* A progress bar on stderr, when that is a terminal. */
#ifndef TOOLS_COMMON_PROGRESS_H
#define TOOLS_COMMON_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tpv_progress_bar {
    const char *what;
    bool shown;
    int64_t begin_ns;
} tpv_progress_bar_t;

tpv_progress_bar_t tpv_progress_bar(const char *what);
/* A tpv_progress_t; `user` is the bar. */
bool tpv_progress_draw(void *user, uint64_t done, uint64_t total);
/* Wipe the line. */
void tpv_progress_end(tpv_progress_bar_t *bar);

#endif
