/* flowreg in C: linear softmax and logistic classifiers, trained on the CPU.
 *
 * UNSTABLE: this is 0.x. Functions and structs may change with any minor version, so compile
 * against the header of the library that you link.
 *
 * Made by cbindgen from capi/src; change the comments and declarations there.
 *
 * Errors. Every function that can fail returns a flowreg_code, FLOWREG_CODE_OK (0) for success.
 * flowreg_last_error_message() then says what was found and what was expected, for the calling
 * thread. A call that succeeds leaves that message as it is. No Rust panic leaves the library: a
 * fault inside is FLOWREG_CODE_INTERNAL. The process is ended only where the system has no memory
 * for an allocation of the library, and where an exception or a panic leaves a callback.
 *
 * Memory. Arrays belong to the caller and are read or written during the call only. A model is a
 * copy: it outlives the arrays it was made from. Every flowreg_model that a function hands out is
 * freed once, by flowreg_model_free. On failure the model handed out is NULL.
 *
 * Pointers. A pointer may be NULL only where its comment says so. A pointer with a length must have
 * that many values, aligned for their type. Arrays that are written must not overlap what is read.
 * NULL, misaligned and overlapping arrays, lengths that do not fit and sizes that overflow are
 * refused with an error. A pointer to freed memory or a wrong length cannot be noticed.
 *
 * Structs. Those that begin with struct_size may get more fields at their end. Set the size to that
 * of the struct that you compiled, by the _init function or by {.struct_size = sizeof(...)}. Fields
 * that an older caller does not have take their defaults and are not written.
 *
 * Threads. Every function may be called by several threads at once. Several threads may read one
 * model at once; flowreg_model_free must be the last call with it. A fit and a large prediction
 * start threads and end them before they return: the process may fork between calls.
 */

#ifndef FLOWREG_H
#define FLOWREG_H

#include <stddef.h>
#include <stdint.h>

// What a function returns.
enum flowreg_code
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Success.
  FLOWREG_CODE_OK = 0,
  // A pointer is NULL or not aligned, arrays overlap, a size overflows, or struct_size is wrong.
  FLOWREG_CODE_ARGUMENT = 1,
  // An option is out of its range.
  FLOWREG_CODE_OPTIONS = 2,
  // Arrays do not fit together, or hold values that are not allowed, such as NaN.
  FLOWREG_CODE_SHAPE = 3,
  // Memory cannot hold what was asked for.
  FLOWREG_CODE_MEMORY = 4,
  // Numbers left the range of f32: the fit diverged, or logits are not finite.
  FLOWREG_CODE_NUMBERS = 5,
  // The operating system refused a file operation.
  FLOWREG_CODE_IO = 6,
  // A file is not what its format demands, or would not be.
  FLOWREG_CODE_FORMAT = 7,
  // The callback stopped the fit.
  FLOWREG_CODE_STOPPED = 8,
  // Another error; the message says which.
  FLOWREG_CODE_OTHER = 9,
  // A fault of flowreg. The message says where; please report it.
  FLOWREG_CODE_INTERNAL = 10,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum flowreg_code flowreg_code;
#else
typedef int32_t flowreg_code;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How the weight is represented.
enum flowreg_engine
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The cheaper one that fits the memory.
  FLOWREG_ENGINE_AUTO = 0,
  // Gram coordinates, for rows that are fewer than features.
  FLOWREG_ENGINE_GRAM = 1,
  // The weight itself.
  FLOWREG_ENGINE_PRIMAL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum flowreg_engine flowreg_engine;
#else
typedef int32_t flowreg_engine;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What happened in a fit.
enum flowreg_event
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The Gram matrix grows: done of total columns.
  FLOWREG_EVENT_GRAM_MATRIX = 0,
  // The solver of flowreg_fit_path made step number done; the start is 0.
  FLOWREG_EVENT_STEP = 1,
  // flowreg_fit_sgd ended epoch number done (from 1) of total.
  FLOWREG_EVENT_EPOCH = 2,
  // message says what the caller should know.
  FLOWREG_EVENT_WARNING = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum flowreg_event flowreg_event;
#else
typedef int32_t flowreg_event;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Where SGD starts.
enum flowreg_init
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The weights of torch.manual_seed(init_seed); torch.nn.Linear(...), to the bit.
  FLOWREG_INIT_TORCH = 0,
  // Zeros.
  FLOWREG_INIT_ZEROS = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum flowreg_init flowreg_init;
#else
typedef int32_t flowreg_init;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What flowreg_path_options.penalty is.
enum flowreg_penalty
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // scikit-learn's C, above 0: l2 = 1/(C * sum of the rows' weights).
  FLOWREG_PENALTY_C = 0,
  // l2 of mean loss + (l2/2) |W|^2, 0 or above.
  FLOWREG_PENALTY_L2 = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum flowreg_penalty flowreg_penalty;
#else
typedef int32_t flowreg_penalty;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What goes to the optimum.
enum flowreg_solver
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Newton's method by conjugate gradients.
  FLOWREG_SOLVER_NEWTON = 0,
  // L-BFGS.
  FLOWREG_SOLVER_LBFGS = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum flowreg_solver flowreg_solver;
#else
typedef int32_t flowreg_solver;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How a search for the optimum ended.
enum flowreg_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The gradient is small beside that at W = 0, and the gap small beside the objective.
  FLOWREG_STATUS_CONVERGED = 0,
  // Out of iterations.
  FLOWREG_STATUS_ITERATION_LIMIT = 1,
  // The precision of products or of f32 allows no better.
  FLOWREG_STATUS_PRECISION_LIMITED = 2,
  // l2 is 0 and the classes are separable: the loss has no minimum.
  FLOWREG_STATUS_SEPARABLE = 3,
  // l2 is 0 and some samples are separable: the loss has no minimum.
  FLOWREG_STATUS_QUASI_SEPARABLE = 4,
  // A status that this interface does not know.
  FLOWREG_STATUS_OTHER = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum flowreg_status flowreg_status;
#else
typedef int32_t flowreg_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A linear classifier: logits = x * weight' + bias. One output is a logistic model of two classes;
// three or more outputs are a softmax with a class each.
typedef struct flowreg_model flowreg_model;

// What a callback is given. Later versions may add fields at the end and kinds of events.
typedef struct flowreg_progress {
  // A flowreg_event; callbacks ignore those that they do not know.
  int32_t event;
  // What is done.
  size_t done;
  // All that is to be done; 0 if that is not known.
  size_t total;
  // The objective (step) or the mean loss (epoch), else NaN.
  double objective;
  // Norm of the objective's gradient (step), else NaN.
  double gradient_norm;
  // The text of a warning in UTF-8, else NULL. It is valid during the callback.
  const char *message;
} flowreg_progress;

// Called while a fit works. A result other than 0 stops the fit, which then returns
// FLOWREG_CODE_STOPPED and no model. Calls come one at a time, often from a thread of the fit's
// own. A callback must not throw, nor leave by longjmp. It may call flowreg.
typedef int32_t (*flowreg_callback)(const struct flowreg_progress *progress, void *user_data);

// Options of flowreg_fit_path; see flowreg_path_options_init.
typedef struct flowreg_path_options {
  // sizeof(flowreg_path_options).
  size_t struct_size;
  // The penalty, which penalty_kind explains. Default: 1.
  double penalty;
  // A flowreg_penalty. Default: FLOWREG_PENALTY_C.
  int32_t penalty_kind;
  // A flowreg_solver. Default: FLOWREG_SOLVER_NEWTON.
  int32_t solver;
  // Gradient norm that is small enough, as a share of that at W = 0; the gap must also be below
  // 100 times this share of the objective. Default: 1e-5.
  double tolerance;
  // Most steps. Default: 1000.
  size_t max_iterations;
  // Threads, 1 to 1024; 0 is one for each core. Default: 0.
  size_t threads;
  // A flowreg_engine. Default: FLOWREG_ENGINE_AUTO.
  int32_t engine;
  // Not used. Default: 0.
  int32_t reserved;
  // Told what happens; may be NULL. Default: NULL.
  flowreg_callback callback;
  // What callback is given. Default: NULL.
  void *user_data;
  // 1 fits a bias, 0 leaves it 0. Default: 1.
  int32_t fit_intercept;
  // Not used. Default: 0.
  int32_t reserved_2;
} flowreg_path_options;

// Options of flowreg_fit_sgd, which mean what they mean in torch.optim.SGD; see
// flowreg_sgd_options_init.
typedef struct flowreg_sgd_options {
  // sizeof(flowreg_sgd_options).
  size_t struct_size;
  // Learning rate. Default: 0.01.
  double lr;
  // Momentum. Default: 0.
  double momentum;
  // Dampening. Default: 0.
  double dampening;
  // Weight decay. Default: 0.
  double weight_decay;
  // Passes over the rows. Default: 100.
  size_t epochs;
  // Rows of a step; 0 is all rows. Default: 0.
  size_t batch_size;
  // Threads, 1 to 1024; 0 is one for each core. Default: 0.
  size_t threads;
  // Seed of the order of mini-batches. Default: 0.
  uint32_t seed;
  // Seed of FLOWREG_INIT_TORCH. Default: 0.
  uint32_t init_seed;
  // A flowreg_init. Default: FLOWREG_INIT_TORCH.
  int32_t init;
  // 1 for Nesterov's momentum. Default: 0.
  int32_t nesterov;
  // 1 takes 1/L, L a bound on the loss's curvature, instead of lr. Default: 0.
  int32_t auto_lr;
  // A flowreg_engine. Default: FLOWREG_ENGINE_AUTO.
  int32_t engine;
  // Told what happens; may be NULL. Default: NULL.
  flowreg_callback callback;
  // What callback is given. Default: NULL.
  void *user_data;
} flowreg_sgd_options;

// Labelled rows. Zeros are good for all fields but struct_size, x, rows, features, labels and
// classes.
typedef struct flowreg_samples {
  // sizeof(flowreg_samples).
  size_t struct_size;
  // Features, row by row.
  const float *x;
  // Number of rows.
  size_t rows;
  // Number of features.
  size_t features;
  // Values from the beginning of a row to that of the next, at least features; 0 is features. x
  // has (rows - 1) * row_stride + features values.
  size_t row_stride;
  // A label for each row, each below classes.
  const uint32_t *labels;
  // Number of classes, 2 or more.
  size_t classes;
  // How much each row counts, 0 or above: a number for each row. NULL: all count alike.
  const double *sample_weights;
} flowreg_samples;

// The end of flowreg_fit_path, measured on the model that it gives.
typedef struct flowreg_path_result {
  // sizeof(flowreg_path_result), to be set before the call.
  size_t struct_size;
  // A flowreg_status. Look at it: a fit that did not converge gives its best model and
  // FLOWREG_CODE_OK.
  int32_t status;
  // The flowreg_engine that did it.
  int32_t engine;
  // mean loss + (l2/2) |W|^2.
  double objective;
  // The objective is above its minimum by no more than this; NaN if no bound is known (l2 = 0).
  double gap;
  // The loss alone.
  double loss;
  // Norm of the objective's gradient.
  double gradient_norm;
  // The penalty.
  double l2;
  // Steps.
  size_t iterations;
  // Seconds.
  double seconds;
} flowreg_path_result;

// The end of flowreg_fit_sgd.
typedef struct flowreg_sgd_result {
  // sizeof(flowreg_sgd_result), to be set before the call.
  size_t struct_size;
  // Epochs that were done.
  size_t epochs;
  // Mean loss of the last epoch's batches, each taken before its step; NaN without epochs.
  double loss;
  // Learning rate.
  double lr;
  // The flowreg_engine that did it.
  int32_t engine;
  // Not used. Default: 0.
  int32_t reserved;
} flowreg_sgd_result;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's version, such as "0.1.0". It is valid for the life of the process.
const char *flowreg_version(void);

// The code of the calling thread's last failure; FLOWREG_CODE_OK if it had none.
flowreg_code flowreg_last_error_code(void);

// The message of the calling thread's last failure, in UTF-8: what was found, what was expected.
// It is "" if there was none. The text is valid until the thread's next failure, until it calls
// flowreg_clear_error, and until it ends.
const char *flowreg_last_error_message(void);

// Forget the calling thread's last failure.
void flowreg_clear_error(void);

// Set the defaults. struct_size is sizeof(flowreg_path_options).
flowreg_code flowreg_path_options_init(struct flowreg_path_options *options, size_t struct_size);

// Set the defaults. struct_size is sizeof(flowreg_sgd_options).
flowreg_code flowreg_sgd_options_init(struct flowreg_sgd_options *options, size_t struct_size);

// Fit the optimum of mean loss + (l2/2) |W|^2; the bias has no penalty. options may be NULL for the defaults,
// result may be NULL. On success *model is a model to free, else NULL.
flowreg_code flowreg_fit_path(const struct flowreg_samples *samples,
                              const struct flowreg_path_options *options,
                              struct flowreg_path_result *result,
                              struct flowreg_model **model);

// Fit by stochastic gradient descent, the trajectory of torch.optim.SGD. options may be NULL for
// the defaults, result may be NULL. On success *model is a model to free, else NULL.
flowreg_code flowreg_fit_sgd(const struct flowreg_samples *samples,
                             const struct flowreg_sgd_options *options,
                             struct flowreg_sgd_result *result,
                             struct flowreg_model **model);

// Make a model of weight (outputs x features, row by row) and bias (outputs values), which are
// copied. Two outputs become the one of their difference, which gives the same probabilities. On
// success *model is a model to free, else NULL.
flowreg_code flowreg_model_new(const float *weight,
                               const float *bias,
                               size_t outputs,
                               size_t features,
                               struct flowreg_model **model);

// Read a model.safetensors, of flowreg or of a torch.nn.Linear. path ends with NUL: bytes on Unix,
// UTF-8 elsewhere. On success *model is a model to free, else NULL.
flowreg_code flowreg_model_load(const char *path, struct flowreg_model **model);

// Write a model.safetensors, which flowreg_model_load, flowreg-predict and torch read. A file that
// is there is replaced. path is as in flowreg_model_load.
flowreg_code flowreg_model_save(const struct flowreg_model *model, const char *path);

// Free a model. NULL is allowed and does nothing.
void flowreg_model_free(struct flowreg_model *model);

// Outputs (1 for two classes), classes and features of a model. Each of the three pointers may be
// NULL.
flowreg_code flowreg_model_shape(const struct flowreg_model *model,
                                 size_t *outputs,
                                 size_t *classes,
                                 size_t *features);

// Copy the weight, outputs x features, row by row. length must be outputs * features.
flowreg_code flowreg_model_weight(const struct flowreg_model *model, float *weight, size_t length);

// Copy the bias. length must be the number of outputs.
flowreg_code flowreg_model_bias(const struct flowreg_model *model, float *bias, size_t length);

// The most probable class of each row of x (rows x features, row by row). length, that of classes,
// must be rows.
flowreg_code flowreg_model_predict(const struct flowreg_model *model,
                                   const float *x,
                                   size_t rows,
                                   size_t features,
                                   uint32_t *classes,
                                   size_t length);

// The logits of rows of x, as they were fitted: rows x outputs, row by row. length must be
// rows * outputs.
flowreg_code flowreg_model_logits(const struct flowreg_model *model,
                                  const float *x,
                                  size_t rows,
                                  size_t features,
                                  float *logits,
                                  size_t length);

// The class probabilities of rows of x, by the model's temperature if its file has one: rows x
// classes, row by row. length must be rows * classes.
flowreg_code flowreg_model_probabilities(const struct flowreg_model *model,
                                         const float *x,
                                         size_t rows,
                                         size_t features,
                                         float *probabilities,
                                         size_t length);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FLOWREG_H */
