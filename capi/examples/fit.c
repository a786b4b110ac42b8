/* Fits six rows of two features, prints the probabilities of three new rows, and frees everything.
 *
 *     cargo build --release
 *     cc -Iinclude examples/fit.c target/release/libflowreg_c.a -lpthread -ldl -lm -o fit
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flowreg.h"

/* Ends the program if a call failed. */
static void check(flowreg_code code, const char *what)
{
    if (code != FLOWREG_CODE_OK) {
        fprintf(stderr, "%s: %s\n", what, flowreg_last_error_message());
        exit(1);
    }
}

/* Prints steps; a result other than 0 would stop the fit. */
static int32_t show(const flowreg_progress *progress, void *user_data)
{
    size_t *steps = user_data;
    if (progress->event == FLOWREG_EVENT_STEP) {
        printf("step %zu: objective %.6f\n", progress->done, progress->objective);
        *steps += 1;
    }
    return 0;
}

int main(void)
{
    const float x[] = {0.0f, 1.0f, 0.2f, 0.9f, 1.0f, 0.1f, 0.8f, 0.0f, 1.0f, 1.0f, 0.9f, 0.8f};
    const uint32_t labels[] = {0, 0, 1, 1, 2, 2};
    const float new_rows[] = {0.1f, 0.8f, 0.9f, 0.2f, 1.1f, 0.9f};
    enum { ROWS = 6, FEATURES = 2, CLASSES = 3, NEW_ROWS = 3 };

    flowreg_samples samples;
    memset(&samples, 0, sizeof samples);
    samples.struct_size = sizeof samples;
    samples.x = x;
    samples.rows = ROWS;
    samples.features = FEATURES;
    samples.labels = labels;
    samples.classes = CLASSES;

    size_t steps = 0;
    flowreg_path_options options;
    check(flowreg_path_options_init(&options, sizeof options), "options");
    options.penalty_kind = FLOWREG_PENALTY_L2;
    options.penalty = 0.01;
    options.callback = show;
    options.user_data = &steps;

    flowreg_path_result result;
    memset(&result, 0, sizeof result);
    result.struct_size = sizeof result;
    flowreg_model *model = NULL;
    check(flowreg_fit_path(&samples, &options, &result, &model), "fit");
    printf("flowreg %s: objective %.6f, above the minimum by at most %.1e\n", flowreg_version(),
           result.objective, result.gap);
    if (result.status != FLOWREG_STATUS_CONVERGED || steps == 0) {
        fprintf(stderr, "fit: status %d after %zu steps\n", (int)result.status, steps);
        flowreg_model_free(model);
        return 1;
    }

    float probabilities[NEW_ROWS * CLASSES];
    uint32_t classes[NEW_ROWS];
    check(flowreg_model_probabilities(model, new_rows, NEW_ROWS, FEATURES, probabilities,
                                      NEW_ROWS * CLASSES),
          "probabilities");
    check(flowreg_model_predict(model, new_rows, NEW_ROWS, FEATURES, classes, NEW_ROWS), "predict");
    int right = 1;
    for (uint32_t i = 0; i < NEW_ROWS; i++) {
        printf("row %u: class %u, probabilities", (unsigned)i, (unsigned)classes[i]);
        for (size_t j = 0; j < CLASSES; j++) {
            printf(" %.4f", (double)probabilities[i * CLASSES + j]);
        }
        printf("\n");
        right = right && classes[i] == i;
    }

    /* An error has a code and a message, and leaves the model as it is. */
    if (flowreg_model_predict(model, new_rows, NEW_ROWS, FEATURES + 1, classes, NEW_ROWS) !=
        FLOWREG_CODE_SHAPE) {
        fprintf(stderr, "predict: rows of another length were not refused\n");
        right = 0;
    }
    printf("refused, as it should be: %s\n", flowreg_last_error_message());
    flowreg_model_free(model);
    return right ? 0 : 1;
}
