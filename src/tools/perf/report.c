#include "tools/perf/report.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/params.h"
#include "tools/common/cli.h"
#include "tools/common/quantile.h"

static double per_second(double bytes, double seconds) {
    return seconds > 0 ? bytes / 1e9 / seconds : 0;
}

typedef struct {
    double seconds, spread, first, gap_p99, algbw, busbw, gather, per_stream, wire_per_needed;
} figures_t;

static figures_t figures_of(tpv_series_t *series, tpv_series_t *stream) {
    figures_t figures = {.seconds = tpv_quantile(series->seconds, series->rounds, 0.5)};
    double between =
        tpv_quantile(series->seconds, series->rounds, 0.75) - tpv_quantile(series->seconds, series->rounds, 0.25);
    figures.spread = figures.seconds > 0 ? between / figures.seconds : 0;
    figures.first = tpv_quantile(series->first, series->rounds, 0.5);
    figures.gap_p99 = tpv_quantile(series->gap_p99, series->rounds, 0.5);
    figures.algbw = per_second((double)series->bytes, figures.seconds);
    figures.busbw = per_second((double)series->wire, figures.seconds);
    figures.gather = per_second(series->gathered_bytes, series->gather_seconds);
    figures.wire_per_needed = series->bytes ? (double)series->wire / (double)series->bytes : 1;
    if (stream && stream->rounds)
        figures.per_stream =
            figures.algbw / per_second((double)stream->bytes, tpv_quantile(stream->seconds, stream->rounds, 0.5));
    return figures;
}

void tpv_report_begin(tpv_report_t *report, const tpv_rank_setup_t *setup, unsigned ranks, int64_t warmup,
                      int64_t rounds, bool check) {
    uint32_t comms = setup->fetch.comms ? setup->fetch.comms : (uint32_t)tpv_param_int(TPV_PARAM_COMMS);
    report->rows = json_array();
    if (report->json) return;
    printf("# tpview_perf %s\n", tpv_version());
    printf("# artifact: %s tp_size: %u tp_rank: %u ranks at once: %u view: %s fuse: %d\n",
           tpv_cli_text(setup->artifact), setup->plan.tp_size, setup->plan.tp_rank, ranks, tpv_cut_name(setup->cut),
           setup->plan.fuse);
    printf("# chunk: %llu comms: %u digests: %d warmup: %" PRId64 " rounds: %" PRId64 " validation: %d; medians\n",
           (unsigned long long)setup->fetch.chunk_bytes, comms, !setup->fetch.no_digests, warmup, rounds, check);
    printf("# time: of the slowest rank; spread: of the middle half; algbw: bytes of all views; busbw: all that was "
           "sent\n");
    printf("#\n#%11s  %12s  %6s  %6s  %9s  %6s  %6s  %6s  %6s  %7s  %7s  %7s  %8s  %6s  %8s  %8s\n", "size", "count",
           "type", "trial", "time", "algbw", "busbw", "#wrong", "spread", "/stream", "first", "gap p99", "wire/",
           "gather", "rank", "source");
    printf("#%11s  %12s  %6s  %6s  %9s  %6s  %6s  %6s  %6s  %7s  %7s  %7s  %8s  %6s  %8s  %8s\n", "(B)", "(elements)",
           "", "", "(us)", "(GB/s)", "(GB/s)", "", "(%)", "", "(us)", "(us)", "needed", "(GB/s)", "(MiB)", "(MiB)");
    fflush(stdout);
}

static void print_or_not(int width, int digits, double value) {
    if (value > 0)
        printf("  %*.*f", width, digits, value);
    else
        printf("  %*s", width, "-");
}

static void print_row(const tpv_series_t *series, const figures_t *figures) {
    printf("%12" PRIu64 "  %12" PRIu64 "  %6s  %6s", series->bytes, series->elements, series->type,
           tpv_trial_name(series->kind));
    printf("  %9.1f  %6.2f  %6.2f", figures->seconds * 1e6, figures->algbw, figures->busbw);
    if (series->checked)
        printf("  %6" PRIu64, series->wrong);
    else
        printf("  %6s", "N/A");
    printf("  %6.1f", figures->spread * 100);
    print_or_not(7, 3, figures->per_stream);
    print_or_not(7, 0, figures->first * 1e6);
    print_or_not(7, 0, figures->gap_p99 * 1e6);
    print_or_not(8, 5, figures->wire_per_needed);
    print_or_not(6, 2, figures->gather);
    print_or_not(8, 1, (double)series->rank_memory / (1 << 20));
    print_or_not(8, 1, (double)series->source_memory / (1 << 20));
    printf("\n");
    if (series->not_warm)
        printf("# warm: in %u of %u rounds the service did not have the view ready\n", series->not_warm,
               series->rounds);
    fflush(stdout);
}

static json_t *row_of(const tpv_series_t *series, const figures_t *figures) {
    json_t *row = json_pack("{s:s, s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:i}", "trial",
                            tpv_trial_name(series->kind), "size", (json_int_t)series->bytes, "count",
                            (json_int_t)series->elements, "tensors", (json_int_t)series->outputs, "type", series->type,
                            "time_us", figures->seconds * 1e6, "spread", figures->spread, "algbw_gb_per_s",
                            figures->algbw, "busbw_gb_per_s", figures->busbw, "first_us", figures->first * 1e6,
                            "gap_p99_us", figures->gap_p99 * 1e6, "wire_per_needed", figures->wire_per_needed,
                            "rank_memory", (json_int_t)series->rank_memory, "rounds", (int)series->rounds);
    json_object_set_new(row, "wrong", series->checked ? json_integer((json_int_t)series->wrong) : json_null());
    json_object_set_new(row, "per_stream", figures->per_stream > 0 ? json_real(figures->per_stream) : json_null());
    if (series->kind != TPV_TRIAL_STREAM) {
        json_object_set_new(row, "gather_gb_per_s", figures->gather > 0 ? json_real(figures->gather) : json_null());
        json_object_set_new(row, "source_memory", json_integer((json_int_t)series->source_memory));
    }
    if (series->kind == TPV_TRIAL_WARM) json_object_set_new(row, "not_warm", json_integer(series->not_warm));
    json_t *times = json_array();
    for (unsigned i = 0; i < series->rounds; i++)
        json_array_append_new(times, json_real(series->seconds[i] * 1e6));
    json_object_set_new(row, "times_us", times);
    return row;
}

void tpv_report_row(tpv_report_t *report, tpv_series_t *series, tpv_series_t *stream) {
    figures_t figures = figures_of(series, stream);
    report->wrong += series->wrong;
    if (report->json)
        json_array_append_new(report->rows, row_of(series, &figures));
    else
        print_row(series, &figures);
}

tpv_status_t tpv_report_end(tpv_report_t *report) {
    if (!report->json)
        printf("# Out of bounds values : %" PRIu64 " %s\n", report->wrong, report->wrong ? "FAILED" : "OK");
    if (report->wrong) return tpv_error_set(TPV_ERR_DIGEST, "%" PRIu64 " elements with wrong bytes", report->wrong);
    if (report->json) {
        tpv_cli_print_json(report->rows);
        report->rows = NULL;
    }
    return TPV_OK;
}
