package object

import (
	"encoding/json"

	"cairnproxy.dev/cairn/mesh"
	corev1 "k8s.io/api/core/v1"
)

// Pod is what is to run: a Pod, or one instance of a Deployment's template.
type Pod struct {
	Name mesh.Name
	// Deployment is the name of the Deployment that the pod belongs to; "" for none.
	Deployment string
	// Workload is the pod in the model, with its address, node and account.
	Workload *mesh.Workload
	// Containers must not be changed: pods share them.
	Containers []Container
}

// Container is one container of a Pod.
type Container struct {
	Name       string
	Image      string
	Command    []string // in place of the image's entry point
	Args       []string
	WorkingDir string
	// Env holds the variables with plain values and those that name a field of
	// the pod itself; others are left out.
	Env   []EnvVar
	Ports []ContainerPort
}

// EnvVar is a variable of a container's environment.
type EnvVar struct{ Name, Value string }

// ContainerPort is a port that a container says it listens on.
type ContainerPort struct {
	Name string
	Port uint16
	UDP  bool
}

func newPod(w *mesh.Workload, tmpl *template, deployment string) Pod {
	return Pod{Name: mesh.Name{Namespace: w.Namespace, Name: w.Name}, Deployment: deployment, Workload: w, Containers: tmpl.of(w)}
}

// templateHash is the part of a pod's name that changes with its template.
func templateHash(tmpl *corev1.PodTemplateSpec) string {
	text, err := json.Marshal(tmpl)
	if err != nil { // no value that was decoded gives one
		text = []byte(err.Error())
	}
	return shortHash(string(text))
}
