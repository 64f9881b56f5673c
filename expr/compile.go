package expr

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

const (
	// MaxText is how many bytes an expression may have.
	MaxText = 4 << 10
	// MaxCost is what an expression may cost, in CEL's units: about one
	// for an operation, and a tenth for a character that is looked at.
	MaxCost = 100_000
	// watchFrom is the estimate from which the cost is counted while the expression runs. Below, a
	// request larger in each of two factors than was assumed stays under MaxCost.
	watchFrom = 1000
	// maxPattern bounds the instructions of a compiled regular expression.
	maxPattern = 2000
)

// Kind is the type of value that an expression gives.
type Kind uint8

const (
	// KindBool is a condition.
	KindBool Kind = iota
	// KindString is a text.
	KindString
	// KindInt is a whole number.
	KindInt
	// KindScalar is a text, a number or a bool.
	KindScalar
)

var kinds = [...]string{"a bool", "a string", "an int", "a string, a number or a bool"}

// String says what the kind is, with its article.
func (k Kind) String() string { return kinds[k] }

// Check says what is wrong with an expression, or nil. It is Compile for those who
// do not want to evaluate.
func Check(text string, kind Kind) error {
	_, err := Compile(text, kind)
	return err
}

// Compile makes a program of an expression over a request. Its error says what is wrong and
// where: the syntax, an unknown name, another type than kind, a cost above MaxCost.
func Compile(text string, kind Kind) (*Program, error) {
	env, err := requestEnv()
	if err != nil {
		return nil, err
	}
	return compile(env, text, kind)
}

// CompileResponse is Compile for an expression that may ask for response.code and response.headers, too.
func CompileResponse(text string, kind Kind) (*Program, error) {
	env, err := responseEnv()
	if err != nil {
		return nil, err
	}
	return compile(env, text, kind)
}

var (
	requestEnv  = sync.OnceValues(func() (*cel.Env, error) { return newEnv(attributes[:firstResponse]) })
	responseEnv = sync.OnceValues(func() (*cel.Env, error) { return newEnv(attributes[:]) })
)

func newEnv(list []attribute) (*cel.Env, error) {
	celTypes := [...]*cel.Type{
		typText: cel.StringType, typInt: cel.IntType, typBool: cel.BoolType, typTime: cel.TimestampType,
		typHeaders: cel.MapType(cel.StringType, cel.StringType), typClaims: cel.MapType(cel.StringType, cel.DynType),
	}
	opts := []cel.EnvOption{
		cel.OptionalTypes(), cel.ParserRecursionLimit(64), cel.DefaultUTCTimeZone(true),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateRegexProgramSizeLimit(maxPattern),
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateComprehensionNestingLimit(2)),
	}
	for _, a := range list {
		opts = append(opts, cel.VariableWithDoc(a.name, celTypes[a.typ], a.doc))
	}
	return cel.NewEnv(opts...)
}

func compile(env *cel.Env, text string, kind Kind) (*Program, error) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, errors.New("the expression is empty")
	case len(text) > MaxText:
		return nil, fmt.Errorf("the expression has %d bytes; at most %d are allowed", len(text), MaxText)
	}
	checked, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		return nil, explain(text, issues)
	}
	if !kind.takes(checked.OutputType()) {
		return nil, fmt.Errorf("expression %s gives %s, where %s is needed", quote(text), article(checked.OutputType().String()), kind)
	}
	tree := checked.NativeRep()
	if err := literalPatterns(tree); err != nil {
		return nil, fmt.Errorf("expression %s: %w", quote(text), err)
	}
	estimate, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, fmt.Errorf("expression %s: estimating its cost: %w", quote(text), err)
	}
	if estimate.Max > MaxCost {
		return nil, fmt.Errorf("expression %s may cost %d units per request; at most %d are allowed: compare fewer or shorter things", quote(text), estimate.Max, MaxCost)
	}
	p := &Program{text: text, kind: kind, cost: estimate.Max}
	if kind == KindBool {
		p.demands = demandsOf(tree, p.cost)
	}
	if n, ok := native(tree, tree.Expr()); ok {
		p.native = n
		return p, nil
	}
	opts := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if estimate.Max > watchFrom {
		opts = append(opts, cel.CostLimit(MaxCost))
	}
	if p.program, err = env.Program(checked, opts...); err != nil {
		return nil, fmt.Errorf("expression %s: %w", quote(text), err)
	}
	return p, nil
}

// takes reports whether values of t will do. What is only known when it runs is
// looked at then.
func (k Kind) takes(t *cel.Type) bool {
	switch t.Kind() {
	case types.DynKind, types.AnyKind:
		return true
	case types.BoolKind:
		return k == KindBool || k == KindScalar
	case types.StringKind:
		return k == KindString || k == KindScalar
	case types.IntKind, types.UintKind:
		return k == KindInt || k == KindScalar
	case types.DoubleKind:
		return k == KindScalar
	default:
		return false
	}
}

// explain turns cel-go's picture of several lines into one line.
func explain(text string, issues *cel.Issues) error {
	list := issues.Errors()
	if len(list) == 0 {
		return fmt.Errorf("expression %s: %w", quote(text), issues.Err())
	}
	e := list[0]
	message := strings.TrimSuffix(e.Message, " (in container '')")
	if name, ok := strings.CutPrefix(message, "undeclared reference to "); ok {
		message = "there is no " + name + "; attributes are " + strings.Join(names(), ", ")
	}
	if e.Location.Line() < 1 {
		return fmt.Errorf("expression %s: %s", quote(text), message)
	}
	return fmt.Errorf("expression %s, line %d column %d: %s", quote(text), e.Location.Line(), e.Location.Column()+1, message)
}

func names() []string {
	out := make([]string, 0, firstResponse)
	for _, a := range attributes[:firstResponse] {
		out = append(out, a.name)
	}
	return out
}

// quote is the beginning of an expression, for messages.
func quote(text string) string {
	if r := []rune(text); len(r) > 100 {
		text = string(r[:100]) + "…"
	}
	return fmt.Sprintf("%q", text)
}

func article(s string) string {
	if strings.ContainsAny(s[:1], "aeio") {
		return "an " + s
	}
	return "a " + s
}

var errPattern = errors.New("the pattern of matches() must be a literal")

// literalPatterns refuses patterns that are made at run time: they may come from the client,
// and compiling them costs more than CEL counts.
func literalPatterns(a *ast.AST) error {
	for _, e := range ast.MatchDescendants(ast.NavigateAST(a), ast.FunctionMatcher("matches")) {
		args := e.AsCall().Args()
		if len(args) == 0 || args[len(args)-1].Kind() != ast.LiteralKind {
			return errPattern
		}
	}
	return nil
}

// sizes tells the estimator how large attributes are.
type sizes struct{}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	a := attributeOf(path[0])
	switch {
	case a == nil:
		return nil
	case len(path) == 1 && (a.typ == typText || a.typ == typHeaders || a.typ == typClaims):
		return &cost.SizeEstimate{Max: a.size}
	case len(path) > 1 && path[len(path)-1] == "@keys":
		return &cost.SizeEstimate{Max: nameSize}
	case len(path) > 1:
		return &cost.SizeEstimate{Max: textSize}
	}
	return nil
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}
