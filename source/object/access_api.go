package object

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The structs of this file are Cairn's own kind. The schema of
// deploy/crds/policy.cairnproxy.dev_accesspolicies.yaml has the same fields (a
// test compares the two), and docs/authorization.md says what each of them means.

// AccessPolicy is policy.cairnproxy.dev AccessPolicy: who may send which requests, in CEL.
type AccessPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              AccessPolicySpec  `json:"spec"`
	Status            gwv1.PolicyStatus `json:"status,omitzero"`
}

// AccessPolicySpec is the policy itself.
type AccessPolicySpec struct {
	TargetRefs []gwv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs"`
	Mode       string                                           `json:"mode,omitempty"`
	Rules      []AccessRule                                     `json:"rules"`
}

// AccessRule is one expression and what it does.
type AccessRule struct {
	Name   string `json:"name,omitempty"`
	Effect string `json:"effect"`
	When   string `json:"when"`
}
