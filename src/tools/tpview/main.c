/* tpview: the command line. Each subcommand has a file of its own. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/params.h"
#include "tools/tpview/command.h"

static const char help[] =
    "Usage: tpview COMMAND [OPTION...]\n"
    "\n"
    "  ls       list the artifacts that a service offers\n"
    "  plan     show what one rank needs of a checkpoint\n"
    "  fetch    fetch one rank's view from a service\n"
    "  verify   compare a fetched file with the checkpoint\n"
    "  publish  have a running service offer one more checkpoint\n"
    "  retire   have it stop offering one\n"
    "  leases   show who holds leases on this host\n"
    "  doctor   examine this host's life-cycle table and limits\n"
    "\n"
    "tpview help COMMAND, or tpview COMMAND --help, tells more. Also: --help, --help-env, --version.\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {{"ls", tpv_command_ls},         {"plan", tpv_command_plan},       {"fetch", tpv_command_fetch},
                {"verify", tpv_command_verify}, {"publish", tpv_command_publish}, {"retire", tpv_command_retire},
                {"leases", tpv_command_leases}, {"doctor", tpv_command_doctor}};

#define COMMANDS (sizeof commands / sizeof *commands)

static int run_command(const char *name, int argc, char **argv) {
    const char *names[COMMANDS];
    for (size_t i = 0; i < COMMANDS; i++) {
        names[i] = commands[i].name;
        if (strcmp(name, names[i]) != 0) continue;
        tpv_cli_command(names[i]);
        return commands[i].run(argc, argv);
    }
    const char *meant = tpv_cli_nearest(name, names, COMMANDS);
    return tpv_cli_usage("unknown command \"%s\"%s%s%s", name, meant ? " (did you mean " : "", meant ? meant : "",
                         meant ? "?)" : "");
}

static int run(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "help";
    if (strcmp(name, "help") == 0 && argc > 2)
        return run_command(argv[2], 2, (char *[]){argv[2], (char *)(uintptr_t) "--help", NULL});
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        fputs(help, argc > 1 ? stdout : stderr);
        return argc > 1 ? TPV_EXIT_OK : TPV_EXIT_USAGE;
    }
    if (strcmp(name, "--version") == 0) {
        printf("tpview %s\n", tpv_version());
        return TPV_EXIT_OK;
    }
    if (strcmp(name, "--help-env") == 0) {
        tpv_params_print(stdout);
        return TPV_EXIT_OK;
    }
    tpv_status_t status = tpv_params_check();
    if (status != TPV_OK) return tpv_cli_fail(status);
    return run_command(name, argc - 1, argv + 1);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    tpv_cli_begin("tpview", argc, argv);
    return tpv_cli_end(run(argc, argv));
}
