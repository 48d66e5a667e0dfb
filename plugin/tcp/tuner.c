#include "tcp/tuner.h"

#define STRETCH_BYTES (UINT64_C(32) << 20)
/* A choice shows what it is worth only after connections that were idle have warmed up. */
#define TRIAL 3
/* The other choice is tried again after so many stretches, and after twice as many each time that it is no better. */
#define PATIENCE 32
#define PATIENCE_MAX 1024
/* Help takes CPU time from others, so it has to pay. */
#define WORTH 1.05
/* A stretch with a longer pause tells nothing: the application had nothing to send. */
#define PAUSE_NS 1000000

void tpv_tcp_tuner_resume(tpv_tcp_tuner_t *tuner, int64_t now) {
    if (tuner->paused && now - tuner->paused > PAUSE_NS) tuner->began = 0;
    tuner->paused = 0;
}

static void change(tpv_tcp_tuner_t *tuner, bool trying) {
    tuner->helped = !tuner->helped;
    tuner->trying = trying;
    tuner->stretches = 0;
}

/* A stretch has ended. */
static void choose(tpv_tcp_tuner_t *tuner, double rate) {
    tuner->stretches++;
    if (tuner->trying && tuner->stretches < TRIAL) return;
    tuner->rates[tuner->helped] = rate;
    bool known = tuner->rates[!tuner->helped] > 0, better = tuner->rates[true] > WORTH * tuner->rates[false];
    if (tuner->trying && better != tuner->helped) {
        if (tuner->patience < PATIENCE_MAX) tuner->patience *= 2;
        change(tuner, false);
    } else if (tuner->trying) {
        tuner->patience = PATIENCE;
        tuner->trying = false;
    } else if (!known || tuner->stretches >= tuner->patience) {
        if (!known) tuner->patience = PATIENCE;
        change(tuner, true);
    } else if (better != tuner->helped) {
        change(tuner, false);
    }
}

bool tpv_tcp_tuner_update(tpv_tcp_tuner_t *tuner, uint64_t bytes, int64_t now) {
    if (tuner->began && bytes - tuner->bytes_then < STRETCH_BYTES) return tuner->helped;
    if (tuner->began && now > tuner->began)
        choose(tuner, (double)(bytes - tuner->bytes_then) / (double)(now - tuner->began));
    tuner->began = now;
    tuner->bytes_then = bytes;
    return tuner->helped;
}
