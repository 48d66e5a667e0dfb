#include "tools/net_perf/subject.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "tools/common/exact_io.h"
#include "tools/common/quantile.h"

#define ORDER_SECONDS 60

typedef struct {
    tpv_perf_order_t order;
    uint64_t warmup;
} command_t;

typedef struct {
    tpv_status_t status;
    double seconds;
    uint64_t wrong;
    char text[200];
} report_t;

static tpv_status_t barrier(const tpv_perf_setup_t *setup) {
    char token = '!';
    TPV_TRY(tpv_exact_write(setup->between, &token, 1));
    return tpv_exact_read(setup->between, &token, 1);
}

static tpv_status_t obey(const tpv_perf_subject_t *subject, void *state, const command_t *command, report_t *report) {
    tpv_perf_order_t warm = command->order;
    uint64_t ignored = 0;
    warm.messages = command->warmup;
    warm.check = false;
    if (warm.messages) TPV_TRY(subject->engine->run(state, &warm, &ignored));
    TPV_TRY(barrier(&subject->setup));
    int64_t begun = tpv_clock_ns();
    TPV_TRY(subject->engine->run(state, &command->order, &report->wrong));
    report->seconds = (double)(tpv_clock_ns() - begun) / (double)TPV_NS_PER_SECOND;
    /* Nobody goes on, and disturbs, before both are through. */
    return barrier(&subject->setup);
}

static void set_environment(char *list) {
    for (char *item; list && (item = strsep(&list, ","));)
        if (*item) putenv(item);
}

/* The CPUs that this process may use, but the even or the odd ones of them only. */
static void pin(bool odd) {
    cpu_set_t all, half;
    int seen = 0;
    CPU_ZERO(&half);
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && seen++ % 2 == odd) CPU_SET(cpu, &half);
    if (CPU_COUNT(&half) > 0) (void)sched_setaffinity(0, sizeof half, &half);
}

static void work(const tpv_perf_subject_t *subject, int orders) {
    void *state = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_environment(subject->environment);
    if (subject->pinned) pin(!subject->setup.first);
    report_t report = {.status = subject->engine->open(&subject->setup, &state)};
    for (;;) {
        if (report.status != TPV_OK) snprintf(report.text, sizeof report.text, "%s", tpv_error_message());
        if (tpv_exact_write(orders, &report, sizeof report) != TPV_OK || report.status != TPV_OK) break;
        command_t command;
        if (tpv_exact_read(orders, &command, sizeof command) != TPV_OK || command.order.messages == 0) break;
        report = (report_t){.status = TPV_OK};
        report.status = obey(subject, state, &command, &report);
    }
    if (state) subject->engine->close(state);
    /* Not exit: what others have registered to be run at exit was registered before the fork. */
    _exit(0);
}

static void give_up(tpv_perf_subject_t *subject, const char *why) {
    snprintf(subject->lost, sizeof subject->lost, "%s", why);
    for (int i = 0; i < 2; i++)
        if (subject->workers[i] > 0) kill(subject->workers[i], SIGKILL);
}

/* Both workers' answers; the slower one's time counts. */
static void hear(tpv_perf_subject_t *subject, report_t *sum) {
    int64_t deadline = tpv_deadline_in(ORDER_SECONDS);
    *sum = (report_t){.status = TPV_OK};
    for (int i = 0; i < 2 && !*subject->lost; i++) {
        report_t report;
        tpv_status_t heard = tpv_exact_read_until(subject->orders[i], -1, deadline, &report, sizeof report);
        if (heard == TPV_ERR_DEADLINE) {
            give_up(subject, "it made no progress in 60 s: hung");
        } else if (heard != TPV_OK) {
            give_up(subject, "one of its processes died");
        } else if (report.status != TPV_OK) {
            report.text[sizeof report.text - 1] = '\0';
            give_up(subject, report.text);
        } else {
            sum->wrong += report.wrong;
            if (report.seconds > sum->seconds) sum->seconds = report.seconds;
        }
    }
}

void tpv_perf_subject_start(tpv_perf_subject_t *subject) {
    int between[2] = {-1, -1};
    subject->orders[0] = subject->orders[1] = -1;
    if (!subject->engine) return;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, between) != 0) {
        give_up(subject, strerror(errno));
        return;
    }
    fflush(NULL);
    for (int i = 0; i < 2 && !*subject->lost; i++) {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
            give_up(subject, strerror(errno));
            break;
        }
        subject->workers[i] = fork();
        if (subject->workers[i] == 0) {
            subject->setup.first = i == 0;
            subject->setup.between = between[i];
            close(between[!i]);
            close(ends[0]);
            work(subject, ends[1]);
        }
        if (subject->workers[i] < 0) give_up(subject, "cannot fork");
        close(ends[1]);
        subject->orders[i] = ends[0];
    }
    close(between[0]);
    close(between[1]);
    report_t ready;
    hear(subject, &ready);
}

void tpv_perf_subject_stop(tpv_perf_subject_t *subject) {
    /* Workers of other subjects have copies of these sockets, so closing them would not be noticed. */
    command_t end = {.order = {.messages = 0}};
    for (int i = 0; i < 2; i++)
        if (subject->orders[i] >= 0 && !*subject->lost) (void)tpv_exact_write(subject->orders[i], &end, sizeof end);
    for (int i = 0; i < 2; i++) {
        if (subject->orders[i] >= 0) close(subject->orders[i]);
        if (subject->workers[i] > 0) waitpid(subject->workers[i], NULL, 0);
    }
}

void tpv_perf_subject_run(tpv_perf_subject_t *subject, const tpv_perf_order_t *order, uint64_t warmup, double *rate) {
    if (*subject->lost) return;
    if (!subject->engine) {
        tpv_perf_ucx_run(subject, order, warmup, rate);
        return;
    }
    command_t command = {.order = *order, .warmup = warmup};
    report_t sum;
    for (int i = 0; i < 2; i++)
        if (tpv_exact_write(subject->orders[i], &command, sizeof command) != TPV_OK)
            give_up(subject, "one of its processes died");
    hear(subject, &sum);
    if (*subject->lost) return;
    subject->wrong += sum.wrong;
    *rate = (double)order->size * (double)order->messages * subject->setup.comms / 1e9 / sum.seconds;
}

double tpv_perf_subject_median(const tpv_perf_subject_t *subject) {
    double rates[TPV_PERF_ROUNDS_MAX];
    memcpy(rates, subject->rates, subject->rounds * sizeof *rates);
    return tpv_quantile(rates, subject->rounds, 0.5);
}
