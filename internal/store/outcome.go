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
	if f, ok := errors.AsType[*failure](err); ok {
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
	if all, ok := errors.AsType[endpointErrors](cause); ok {
		f.why = all.Error()
		for _, e := range all {
			f.add(explain(e.err).class)
		}
		return f
	}
	x := explain(cause)
	f.why = x.String()
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

// Error names every reason once, with its endpoints and the details of one.
func (all endpointErrors) Error() string {
	var reasons []explanation
	at := make(map[string][]string)
	for _, a := range all {
		x := explain(a.err)
		if at[x.text] == nil {
			reasons = append(reasons, x)
		}
		at[x.text] = append(at[x.text], a.member.endpoint)
	}
	var texts []string
	for _, x := range reasons {
		slices.Sort(at[x.text])
		texts = append(texts, strings.Join(at[x.text], ", ")+": "+x.String())
	}
	slices.Sort(texts)
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

// A saying is an answer of etcd's, what it means for a Txn and, for users, what it
// means at all.
type saying struct {
	says error
	outcome
	words string
}

// sayings lists the answers that mean something. A refusal is only believed in
// etcd's own words: each of these is said before the Txn is proposed, or by the
// applier instead of applying it. For NoSpace see [Store.surelyNot].
func sayings() []saying {
	var (
		denied   = outcome{class: ErrDenied}
		login    = outcome{class: ErrDenied, again: true} // the client has renewed its token since
		tooLarge = outcome{class: ErrTooLarge}
		invalid  = outcome{class: ErrInvalid}
		unknown  = outcome{class: ErrUnknown}
		leader   = "etcd could not decide in time: more than half of its members must run and reach each other, and their disks be fast enough"
	)
	return []saying{
		{rpctypes.ErrPermissionDenied, denied, "the user may not read and write weft's prefix: see etcdctl role grant-permission --prefix=true ROLE readwrite PREFIX"},
		{rpctypes.ErrAuthFailed, denied, "wrong user or password: check WEFT_STORE_USER and WEFT_STORE_PASSWORD"},
		{rpctypes.ErrUserEmpty, login, "etcd wants a user: set WEFT_STORE_USER and WEFT_STORE_PASSWORD"},
		{rpctypes.ErrInvalidAuthToken, login, "the login has expired and could not be renewed"},
		{rpctypes.ErrAuthOldRevision, login, "etcd's users and roles are being changed"},
		{rpctypes.ErrRequestTooLarge, tooLarge, "more than --max-request-bytes of etcd"},
		{rpctypes.ErrTooManyOps, tooLarge, "more than --max-txn-ops of etcd"},
		{rpctypes.ErrDuplicateKey, invalid, "one transaction changes a key twice"},
		{rpctypes.ErrEmptyKey, invalid, "a key is empty"},
		{rpctypes.ErrTooManyRequests, outcome{class: ErrDown, again: true}, "etcd is overloaded"},
		{rpctypes.ErrNoSpace, outcome{class: ErrReadOnly}, "etcd's quota is used up (alarm NOSPACE)"},
		{rpctypes.ErrNoLeader, unknown, leader},
		{rpctypes.ErrLeaderChanged, unknown, leader},
		{rpctypes.ErrTimeout, unknown, leader},
		{rpctypes.ErrTimeoutDueToLeaderFail, unknown, leader},
		{rpctypes.ErrTimeoutDueToConnectionLost, unknown, leader},
	}
}

// said returns the saying in an error; without one the outcome is unknown.
func said(err error) saying {
	own, ok := errors.AsType[rpctypes.EtcdError](err)
	if !ok {
		own, _ = errors.AsType[rpctypes.EtcdError](rpctypes.Error(err))
	}
	for _, s := range sayings() {
		if errors.Is(own, s.says) {
			return s
		}
	}
	return saying{outcome: outcome{class: ErrUnknown}}
}

// judge maps the error of a Txn. Whatever is not known to have done nothing is
// ErrUnknown.
func judge(err error, sent bool) outcome {
	exhausted := status.Code(err) == codes.ResourceExhausted
	switch {
	case !sent && exhausted:
		return outcome{class: ErrTooLarge} // for gRPC
	case !sent:
		return outcome{class: ErrDown, again: true}
	case exhausted && strings.Contains(err.Error(), "received message larger than max"):
		// A member refuses it before it reads it. The limit of answers, which has the
		// same words, is off.
		return outcome{class: ErrTooLarge}
	}
	return said(err).outcome
}

// timedOut says that there was no answer at all.
func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

// An explanation is an error in a user's words, with advice.
type explanation struct {
	text   string
	class  error  // nil, or what it says beside the caller's own class
	detail string // the words it was found in, or nothing
}

func (x explanation) String() string {
	if x.detail == "" {
		return x.text
	}
	return x.text + " (" + x.detail + ")"
}

// explain is where the words of etcd, gRPC, TLS and the kernel are translated.
func explain(err error) explanation {
	text := shorten(message(err))
	if s := said(err); s.words != "" {
		x := explanation{text: s.words, detail: text}
		if errors.Is(s.class, ErrDenied) || errors.Is(s.class, ErrReadOnly) {
			x.class = s.class
		}
		return x
	}
	if errors.Is(err, errAbandoned) || errors.Is(err, ErrClosed) {
		return explanation{text: err.Error()}
	}
	if bad, ok := errors.AsType[fileError](err); ok {
		return explanation{text: bad.Error()}
	}
	for _, known := range phrases() {
		if strings.Contains(message(err), known.says) {
			return explanation{known.means, known.class, text}
		}
	}
	switch {
	case timedOut(err):
		return explanation{text: "no answer in time: is the host reachable, and do more than half of etcd's members run?"}
	case errors.Is(err, context.Canceled):
		return explanation{text: "the caller gave up"}
	}
	return explanation{text: text}
}

type phrase struct {
	says, means string
	class       error
}

// phrases lists what connections fail with; the first one that fits counts.
func phrases() []phrase {
	const hangs = "it takes the connection and says nothing: it hangs, or is not etcd"
	return []phrase{
		{"certificate signed by unknown authority", "its certificate is signed by nobody we trust: check WEFT_STORE_CA", nil},
		{"certificate has expired", "a certificate has expired: renew it and check the clocks", nil},
		{"x509: certificate is", "its certificate is for another name: put the name in WEFT_STORE, or the address in the certificate", nil},
		{"doesn't contain any IP SANs", "its certificate is for names only: put a name in WEFT_STORE", nil},
		{"remote error: tls: ", "it does not accept our client certificate: check WEFT_STORE_CERT and WEFT_STORE_KEY", ErrDenied},
		{"does not look like a TLS handshake", "it speaks no TLS: use etcd:// without CA and certificate", nil},
		{"handshake failed: context deadline", hangs, nil},
		{"handshake failed: EOF", "it speaks no TLS, or ends at once: use etcd:// without CA and certificate", nil},
		{"connection refused", "nothing listens there: start etcd, or correct WEFT_STORE", nil},
		{"lookup ", "its name is unknown: correct WEFT_STORE or the DNS", nil},
		{"no route to host", "no route to it: check the network", nil},
		{"network is unreachable", "no route to it: check the network", nil},
		{"use of closed network connection", hangs, nil}, // closed by us, who waited in vain
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
	if st, ok := status.FromError(err); ok {
		text = st.Message()
	} else if ee, ok := errors.AsType[rpctypes.EtcdError](err); ok {
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
