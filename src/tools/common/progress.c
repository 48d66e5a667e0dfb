#include "tools/common/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define WIDTH 30

tpv_progress_bar_t tpv_progress_bar(const char *what) {
    return (tpv_progress_bar_t){.what = what, .shown = isatty(STDERR_FILENO), .begin_ns = tpv_clock_ns()};
}

bool tpv_progress_draw(void *user, uint64_t done, uint64_t total) {
    const tpv_progress_bar_t *bar = user;
    if (!bar->shown) return true;
    static const char full[] = "##############################";
    double part = total > 0 ? (double)done / (double)total : 1.0;
    double seconds = (double)(tpv_clock_ns() - bar->begin_ns) / (double)TPV_NS_PER_SECOND;
    int filled = (int)(part * WIDTH);
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%  %.2f GB  %.2f GB/s ", bar->what, filled, full, WIDTH - filled, "",
            100.0 * part, (double)done / 1e9, seconds > 0 ? (double)done / 1e9 / seconds : 0.0);
    fflush(stderr);
    return true;
}

void tpv_progress_end(tpv_progress_bar_t *bar) {
    if (bar->shown) fprintf(stderr, "\r\033[K");
}
