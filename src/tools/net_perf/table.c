#include "tools/net_perf/table.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "tools/common/cli.h"
#include "tpview/tpview.h"

static double best_tcp(const tpv_perf_table_t *table) {
    double best = 0;
    for (unsigned i = 0; i < table->tcp_count; i++) {
        const tpv_perf_subject_t *subject = &table->tcp[i];
        if (subject->rounds && tpv_perf_subject_median(subject) > best) best = tpv_perf_subject_median(subject);
    }
    return best;
}

static double rate_of(const tpv_perf_subject_t *subject) {
    return subject && subject->rounds ? tpv_perf_subject_median(subject) : 0;
}

static void print_number(int width, int digits, double value) {
    if (value > 0)
        printf("  %*.*f", width, digits, value);
    else
        printf("  %*s", width, "N/A");
}

void tpv_perf_table_begin(tpv_perf_table_t *table, int64_t rounds) {
    const tpv_perf_setup_t *setup = &table->subjects[0].setup;
    table->rows = json_array();
    if (table->json) return;
    printf("# tpview_net_perf %s\n", tpv_version());
    printf("# comms: %u in flight: %u directions: %d rounds: %" PRId64 " validation: %d; medians\n", setup->comms,
           setup->inflight, setup->both ? 2 : 1, rounds, table->checked);
    for (unsigned i = 0; i < table->net_count; i++)
        printf("# net %u: %s\n", i + 1, table->subjects[i].name);
    for (unsigned i = 0; i < table->subject_count; i++)
        if (*table->subjects[i].lost)
            printf("# %s: not measured: %s\n", table->subjects[i].name, table->subjects[i].lost);
    printf("#\n#%11s  %12s", "size", "count");
    for (unsigned i = 0; i < table->net_count; i++)
        printf("  %10s %u %6s", "net", i + 1, "#wrong");
    for (unsigned i = table->net_count; i < table->subject_count; i++)
        printf("  %7s", table->subjects[i].name);
    for (unsigned i = 0; i < table->net_count; i++) {
        if (table->builtin) printf("  %5s %u", "net", i + 1);
        if (table->tcp_count) printf("  %5s %u", "net", i + 1);
        if (table->ucx) printf("  %5s %u", "net", i + 1);
    }
    printf("\n#%11s  %12s", "(B)", "(messages)");
    for (unsigned i = 0; i < table->net_count; i++)
        printf("  %7s  %6s %6s", "(us)", "(GB/s)", "");
    for (unsigned i = table->net_count; i < table->subject_count; i++)
        printf("  %7s", "(GB/s)");
    for (unsigned i = 0; i < table->net_count; i++) {
        if (table->builtin) printf("  %7s", "/Socket");
        if (table->tcp_count) printf("  %7s", "/TCP");
        if (table->ucx) printf("  %7s", "/ucx");
    }
    printf("\n");
    fflush(stdout);
}

static json_t *result_of(const tpv_perf_subject_t *subject, uint64_t bytes) {
    double rate = rate_of(subject);
    json_t *rounds = json_array();
    for (unsigned i = 0; i < subject->rounds; i++)
        json_array_append_new(rounds, json_real(subject->rates[i]));
    json_t *result =
        json_pack("{s:s, s:f, s:f, s:o, s:I}", "name", subject->name, "gb_per_s", rate, "time_us",
                  rate > 0 ? (double)bytes / rate / 1e3 : 0.0, "rounds", rounds, "wrong", (json_int_t)subject->wrong);
    if (*subject->lost) json_object_set_new(result, "lost", json_string(subject->lost));
    return result;
}

static double ratio(double rate, double yardstick) {
    return yardstick > 0 ? rate / yardstick : 0;
}

static void set_ratio(json_t *result, const char *name, double value) {
    if (value > 0) json_object_set_new(result, name, json_real(value));
}

static void add_json(tpv_perf_table_t *table, const tpv_perf_order_t *order) {
    json_t *results = json_array();
    for (unsigned i = 0; i < table->subject_count; i++) {
        const tpv_perf_subject_t *subject = &table->subjects[i];
        json_t *result = result_of(subject, order->size);
        if (i < table->net_count) {
            set_ratio(result, "per_socket", ratio(rate_of(subject), rate_of(table->builtin)));
            set_ratio(result, "per_tcp", ratio(rate_of(subject), best_tcp(table)));
            set_ratio(result, "per_ucx", ratio(rate_of(subject), rate_of(table->ucx)));
        }
        json_array_append_new(results, result);
    }
    json_array_append_new(table->rows, json_pack("{s:I, s:I, s:o}", "size", (json_int_t)order->size, "messages",
                                                 (json_int_t)order->messages, "results", results));
}

void tpv_perf_table_row(tpv_perf_table_t *table, const tpv_perf_order_t *order) {
    for (unsigned i = 0; i < table->net_count; i++)
        table->wrong += table->subjects[i].wrong;
    if (table->json) {
        add_json(table, order);
        return;
    }
    printf("%12" PRIu64 "  %12" PRIu64, order->size, order->messages);
    for (unsigned i = 0; i < table->net_count; i++) {
        const tpv_perf_subject_t *subject = &table->subjects[i];
        double rate = rate_of(subject);
        print_number(7, 2, rate > 0 ? (double)order->size / rate / 1e3 : 0);
        print_number(6, 2, rate);
        if (table->checked)
            printf(" %6" PRIu64, subject->wrong);
        else
            printf(" %6s", "N/A");
    }
    for (unsigned i = table->net_count; i < table->subject_count; i++)
        print_number(7, 2, rate_of(&table->subjects[i]));
    for (unsigned i = 0; i < table->net_count; i++) {
        double rate = rate_of(&table->subjects[i]);
        if (table->builtin) print_number(7, 2, ratio(rate, rate_of(table->builtin)));
        if (table->tcp_count) print_number(7, 2, ratio(rate, best_tcp(table)));
        if (table->ucx) print_number(7, 2, ratio(rate, rate_of(table->ucx)));
    }
    printf("\n");
    fflush(stdout);
}

/* What went wrong in any round, if anything did. */
static tpv_status_t judge(const tpv_perf_table_t *table) {
    if (table->wrong) return tpv_error_set(TPV_ERR_DIGEST, "%" PRIu64 " messages with wrong bytes", table->wrong);
    for (unsigned i = 0; i < table->net_count; i++)
        if (*table->subjects[i].lost)
            return tpv_error_set(TPV_ERR_NET, "%s: %s", table->subjects[i].name, table->subjects[i].lost);
    return TPV_OK;
}

tpv_status_t tpv_perf_table_end(tpv_perf_table_t *table) {
    tpv_status_t status = judge(table);
    if (table->json) {
        /* One document: the error is one, and stands for all. */
        if (status == TPV_OK)
            tpv_cli_print_json(table->rows);
        else
            json_decref(table->rows);
        return status;
    }
    json_decref(table->rows);
    for (unsigned i = table->net_count; i < table->subject_count; i++) {
        const tpv_perf_subject_t *subject = &table->subjects[i];
        if (subject->wrong) printf("# %s: %" PRIu64 " wrong messages\n", subject->name, subject->wrong);
        if (*subject->lost) printf("# %s: not measured to the end: %s\n", subject->name, subject->lost);
    }
    printf("# Out of bounds values : %" PRIu64 " %s\n", table->wrong, table->wrong ? "FAILED" : "OK");
    return status;
}
