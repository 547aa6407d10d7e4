package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errAbandoned is why a request ended whose connection was given up.
var errAbandoned = errors.New("the connection was given up because the member no longer answered")

// A failure is an error of this package: what it means to the caller, where it
// happened, and why.
type failure struct {
	classes []error
	at      string
	why     string
	cause   error
}

func (f *failure) Error() string {
	return fmt.Sprintf("store %s: %v: %s", f.at, f.classes[0], f.why)
}

func (f *failure) Unwrap() []error { return append(slices.Clone(f.classes), f.cause) }

// reason returns why an error of this package happened.
func reason(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.why
	}
	return err.Error()
}

// problem explains an error of a request; without an endpoint it is one of all of
// them. What the cause itself says to the caller comes after class.
func (s *Store) problem(class error, endpoint string, cause error) error {
	f := &failure{classes: []error{class}, at: endpoint, cause: cause}
	if endpoint == "" {
		f.at = strings.Join(s.endpoints, ",")
	}
	var all endpointErrors
	if errors.As(cause, &all) {
		f.why = all.Error()
		for _, e := range all {
			f.add(explain(e.err).class)
		}
		return f
	}
	x := explain(cause)
	f.why = x.text
	f.add(x.class)
	if s.ctx.Err() != nil {
		f.add(ErrClosed)
	}
	return f
}

func (f *failure) add(class error) {
	if class != nil && !slices.Contains(f.classes, class) {
		f.classes = append(f.classes, class)
	}
}

// endpointErrors are the reasons why no member answers.
type endpointErrors []answer

// Error names every reason once, with its endpoints.
func (all endpointErrors) Error() string {
	var texts []string
	at := make(map[string][]string)
	for _, e := range all {
		text := explain(e.err).text
		if at[text] == nil {
			texts = append(texts, text)
		}
		at[text] = append(at[text], e.member.endpoint)
	}
	slices.SortFunc(texts, func(a, b string) int { return strings.Compare(at[a][0], at[b][0]) })
	for i, text := range texts {
		slices.Sort(at[text])
		texts[i] = strings.Join(at[text], ", ") + ": " + text
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the causes.
func (all endpointErrors) Unwrap() []error {
	errs := make([]error, len(all))
	for i, e := range all {
		errs[i] = e.err
	}
	return errs
}

// An outcome is what the answer to a Txn says about it.
type outcome struct {
	class error // what the caller is told
	again bool  // certainly did nothing, and may succeed at another attempt
}

// judge maps the error of a Txn. Whatever is not known to have done nothing is
// ErrUnknown. A refusal is only believed in etcd's own words: each of these is
// said before the Txn is proposed, or by the applier instead of applying it.
// NoSpace is not among them, see [Store.surelyNot].
func judge(err error, sent bool) outcome {
	if !sent {
		if status.Code(err) == codes.ResourceExhausted {
			return outcome{class: ErrTooLarge}
		}
		return outcome{class: ErrDown, again: true}
	}
	switch etcdError(err) {
	case rpctypes.ErrRequestTooLarge, rpctypes.ErrTooManyOps:
		return outcome{class: ErrTooLarge}
	case rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed:
		return outcome{class: ErrDenied}
	case rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrUserEmpty:
		return outcome{class: ErrDenied, again: true}
	case rpctypes.ErrDuplicateKey, rpctypes.ErrEmptyKey:
		return outcome{class: ErrInvalid}
	case rpctypes.ErrTooManyRequests:
		return outcome{class: ErrDown, again: true}
	case rpctypes.ErrNoSpace:
		return outcome{class: ErrReadOnly}
	}
	// A member refuses a request beyond its limit before reading it. The limit of
	// answers, which has the same words, is off.
	if status.Code(err) == codes.ResourceExhausted && strings.Contains(rpctypes.ErrorDesc(err), "received message larger than max") {
		return outcome{class: ErrTooLarge}
	}
	return outcome{class: ErrUnknown}
}

// etcdError returns etcd's own error in err, or nil.
func etcdError(err error) error {
	var own rpctypes.EtcdError
	if errors.As(err, &own) || errors.As(rpctypes.Error(err), &own) {
		return own
	}
	return nil
}

// timedOut says that there was no answer at all.
func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

// An explanation is an error in a user's words, with advice.
type explanation struct {
	text  string
	class error // nil, or what it says beside the caller's own class
}

// explain is where the words of etcd, gRPC, TLS and the kernel are translated.
func explain(err error) explanation {
	switch etcdError(err) {
	case rpctypes.ErrAuthFailed:
		return explanation{"wrong user or password: check WEFT_STORE_USER and WEFT_STORE_PASSWORD", ErrDenied}
	case rpctypes.ErrPermissionDenied:
		return explanation{"the user may not read and write weft's prefix: see etcdctl role grant-permission --prefix=true ROLE readwrite PREFIX", ErrDenied}
	case rpctypes.ErrUserEmpty:
		return explanation{"etcd wants a user: set WEFT_STORE_USER and WEFT_STORE_PASSWORD", ErrDenied}
	case rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision:
		return explanation{"the login has expired and could not be renewed: " + message(err), ErrDenied}
	case rpctypes.ErrNoSpace:
		return explanation{"etcd's quota is used up (alarm NOSPACE)", ErrReadOnly}
	case rpctypes.ErrNoLeader, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrTimeout, rpctypes.ErrLeaderChanged:
		return explanation{"etcd has no leader or changes it (" + message(err) + "): more than half of its members must run and reach each other", nil}
	}
	if errors.Is(err, errAbandoned) || errors.Is(err, ErrClosed) {
		return explanation{err.Error(), nil}
	}
	text := message(err)
	for _, known := range phrases() {
		if strings.Contains(text, known.says) {
			return explanation{known.means + " (" + shorten(text) + ")", known.class}
		}
	}
	switch {
	case timedOut(err):
		return explanation{"no answer in time: is the host reachable, and do more than half of etcd's members run?", nil}
	case errors.Is(err, context.Canceled):
		return explanation{"the caller gave up", nil}
	}
	return explanation{shorten(text), nil}
}

type phrase struct {
	says, means string
	class       error
}

// phrases lists what connections fail with; the first one that fits counts.
func phrases() []phrase {
	return []phrase{
		{"certificate signed by unknown authority", "its certificate is signed by nobody we trust: check WEFT_STORE_CA", nil},
		{"certificate has expired", "a certificate has expired: renew it and check the clocks", nil},
		{"x509: certificate is", "its certificate is for another name: put the name in WEFT_STORE, or the address in the certificate", nil},
		{"doesn't contain any IP SANs", "its certificate is for names only: put a name in WEFT_STORE", nil},
		{"remote error: tls: ", "it does not accept our client certificate: check WEFT_STORE_CERT and WEFT_STORE_KEY", ErrDenied},
		{"does not look like a TLS handshake", "it speaks no TLS: use etcd:// without CA and certificate", nil},
		{"connection refused", "nothing listens there: start etcd, or correct WEFT_STORE", nil},
		{"no such host", "its name is unknown: correct WEFT_STORE or the DNS", nil},
		{"no route to host", "no route to it: check the network", nil},
		{"network is unreachable", "no route to it: check the network", nil},
		{"server preface", "it closes the connection at once: it may want TLS (etcds:// or WEFT_STORE_CA), or not be etcd", nil},
		{"unknown service", "it is not etcd: correct WEFT_STORE", nil},
	}
}

// message returns the words of an error without gRPC's wrapping.
func message(err error) string {
	if err == nil {
		return "no answer yet"
	}
	text := err.Error()
	var ee rpctypes.EtcdError
	if st, ok := status.FromError(err); ok {
		text = st.Message()
	} else if errors.As(err, &ee) {
		text = ee.Error()
	}
	return text
}

// shorten cuts what gRPC says before the words that matter.
func shorten(text string) string {
	for _, mark := range []string{`desc = "`, "transport: ", "Error while dialing: "} {
		if i := strings.LastIndex(text, mark); i >= 0 {
			text = text[i+len(mark):]
		}
	}
	return strings.TrimSuffix(text, `"`)
}
